"""Sweeps: configs that stand for many, and the block in params.yaml that lays a sweep over a config."""

from sae.config.swept import SweepExpression, SweepVar, Swept, Val
from sae.sweeps.block import SweepConfig
from sae.sweeps.points import Point, dump, is_concrete, load, points, sample

__all__ = [
    "Point",
    "SweepConfig",
    "SweepExpression",
    "SweepVar",
    "Swept",
    "Val",
    "dump",
    "is_concrete",
    "load",
    "points",
    "sample",
]
