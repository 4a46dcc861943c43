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


class L0Loss(Loss):
    """The batch's L0, with the gradient that a `JumpReLU` gives its thresholds."""

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        found: list[Tensor] = [value for path, value in cache.values().items() if path.split("/")[-1] == "l0_surrogate"]
        if not found:
            raise SaeError("this loss needs an L0 with a gradient", where=type(self.model).__name__, expected="a JumpReLU in it")
        return torch.stack(found).sum()


class L0TargetLoss(L0Loss):
    """weight · (L0 / target - 1)², which leads L0 to its target without a coefficient to be steered.

    Source: Rajamanoharan et al. 2024, "Jumping ahead", where it is named as the way to train to a given sparsity.

    Args:
        model: with a `JumpReLU` in it.
        target: mean number of active latents.
        weight: against the reconstruction's loss.
    """

    def __init__(self, model: nn.Module, target: float, weight: float) -> None:
        super().__init__(model)
        self.target, self.weight = target, weight

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        l0 = super().loss(x, y, reconstruction, cache)
        return self.weight * (l0 / self.target - 1).square()


class NestedL2Loss(Loss):
    """Mean over the prefixes of a `NestedDecoder` of the L2 loss of what each reconstructs by itself."""

    def loss(self, x: Tensor, y: Tensor, reconstruction: Tensor, cache: Cache) -> Tensor:
        prefixes: list[Tensor] = cache["decoder"].read("prefixes")
        return torch.stack([(y - prefix_BD).square().mean() for prefix_BD in prefixes]).mean()
