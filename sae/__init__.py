"""Sparse autoencoders from small named pieces. Names load on use, so that importing the package costs nothing.

>>> import sae, torch
>>> from sae.architectures.topk import TopKSAE
>>> declared = TopKSAE(d_in=4, d_sae=8, l0_target=2)
>>> trained = sae.TrainedSAE(declared, hook_points=["model.layers.1"], lineage={})  # what sae.load(directory) returns
>>> x = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]])  # [sequences, tokens, d_in]
>>> codes = trained.encode(x)
>>> codes.shape, codes.l0() <= 2
((2, 8), tensor(True))
>>> trained(x).shape, torch.equal(trained(x), trained.decode(codes, x).reshape(x.shape))
(torch.Size([1, 2, 4]), True)
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Architecture": "sae.architecture",
    "SAE": "sae.architecture",
    "Splice": "sae.evaluation.intervene",
    "TensorSource": "sae.activations.tensors",
    "TrainConfig": "sae.training.trainer",
    "Trainer": "sae.training.trainer",
    "TrainedSAE": "sae.architecture",
    "ablate": "sae.evaluation.intervene",
    "aux_model_prop": "sae.architecture",
    "load": "sae.architecture",
    "loss_prop": "sae.architecture",
    "metric_prop": "sae.architecture",
    "model_prop": "sae.architecture",
    "save": "sae.architecture",
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
