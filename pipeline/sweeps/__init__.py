"""Sweeps: many points, each run through DVC in a clone of its own, here or by agents, recorded as DVC experiments."""
