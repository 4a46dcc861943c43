"""Composition: modules that run inside a per-step record, and the few ways to put them together."""

from sae.core import ops
from sae.core.cache import Cache, Module, run
from sae.core.composition import Collection, Lambda, Parallel, ReuseForward, Seq, useif

__all__ = ["Cache", "Collection", "Lambda", "Module", "Parallel", "ReuseForward", "Seq", "ops", "run", "useif"]
