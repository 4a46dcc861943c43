"""`Codes`: the activations of the latents, behind one interface whatever their storage.

Shapes: B tokens in a batch, F latents (d_sae), D dimensions of the activations (d_in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class Codes(ABC):
    """Activations of F latents for B tokens. All between encoder and decoder speaks to this type only."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(B, F)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The codes as a tensor [B, F]."""

    @abstractmethod
    def l0_per_token(self) -> Tensor:
        """Number of non-zero latents of each token [B], without gradient."""

    @abstractmethod
    def l1(self) -> Tensor:
        """Sum over latents of the mean over tokens of the magnitude: a scalar, with gradient."""

    @abstractmethod
    def fired(self) -> Tensor:
        """Number of tokens that each latent is non-zero on [F], without gradient."""

    @abstractmethod
    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        """The product with decoder rows: [B, F] @ [F, D] → [B, D]."""

    @abstractmethod
    def detach(self) -> Codes:
        """The same codes, cut off from the graph."""

    def l0(self) -> Tensor:
        """Mean number of non-zero latents of a token: a scalar, without gradient."""
        return self.l0_per_token().float().mean()


class DenseCodes(Codes):
    """Codes stored as one tensor [B, F]."""

    def __init__(self, values_BF: Tensor) -> None:
        self.values_BF = values_BF

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_BF.shape[0], self.values_BF.shape[1]

    def dense(self) -> Tensor:
        return self.values_BF

    def l0_per_token(self) -> Tensor:
        return (self.values_BF.detach() != 0).sum(-1)

    def l1(self) -> Tensor:
        return self.values_BF.abs().sum() / len(self.values_BF)

    def fired(self) -> Tensor:
        return (self.values_BF.detach() != 0).sum(0)

    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        return self.values_BF @ weight_FD

    def detach(self) -> DenseCodes:
        return DenseCodes(self.values_BF.detach())


def as_codes(values: Any) -> Codes:
    """A tensor [B, F] as codes; codes as they are."""
    if isinstance(values, Codes):
        return values
    if isinstance(values, torch.Tensor) and values.ndim == 2:
        return DenseCodes(values)
    raise TypeError(f"codes are a tensor [tokens, latents] or Codes, not {getattr(values, 'shape', type(values))}")
