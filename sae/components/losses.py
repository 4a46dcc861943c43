"""Losses. A loss holds the model that it judges; the framework names it, weighs it, and runs each model once a step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sae.config import SaeError
from sae.core import Cache


class Loss(ABC):
    """A scalar to be minimised.

    Args:
        model: the model that is judged; several losses may share one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor, y: Tensor, *, cache: Cache) -> Tensor:
        """The loss of reconstructing y [B, D] from x [B, D]."""
        reconstruction = cache.run_once(self.model, x)
        return self.loss(x, y, reconstruction, cache.scope_of(self.model))

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        """The loss, given the model's output and the scope that it ran in."""


class L2Loss(Loss):
    """Mean over tokens and dimensions of (y - ŷ)².

    The mean over dimensions, not their sum, so that with activations normalised to norm √D the loss is near the FVU
    and coefficients mean the same at every width.
    """

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        return (y - reconstruction).square().mean()


class CosineDistanceLoss(Loss):
    """1 - mean cosine similarity of target and reconstruction."""

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        return 1 - nn.functional.cosine_similarity(y, reconstruction, dim=-1).mean()


class SparsityPenaltyLoss(Loss):
    """The penalty that the model's own penalty module recorded."""

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        penalties: list[Tensor] = [value for path, value in cache.values().items() if path.split("/")[-1] == "sparsity_penalty"]
        if not penalties:
            raise SaeError(
                "SparsityPenaltyLoss found no penalty: its model has none",
                where=type(self.model).__name__,
                expected="SAE(penalty=L1Penalty()) or another penalty",
            )
        return torch.stack(penalties).sum()
