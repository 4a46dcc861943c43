"""Sparse autoencoders from small named pieces. Names load on use, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Architecture": "sae.architecture",
    "SAE": "sae.architecture",
    "Splice": "sae.evaluation.intervene",
    "TrainedSAE": "sae.architecture",
    "ablate": "sae.evaluation.intervene",
    "aux_model_prop": "sae.architecture",
    "load": "sae.architecture",
    "loss_prop": "sae.architecture",
    "metric_prop": "sae.architecture",
    "model_prop": "sae.architecture",
    "splice": "sae.evaluation.intervene",
    "steer": "sae.evaluation.intervene",
    "InputError": "sae.config",
    "SaeError": "sae.config",
    "SweepableConfig": "sae.config",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
