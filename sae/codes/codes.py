"""`Codes`: the activations of the latents, behind one interface whatever their storage.

Shapes: B tokens in a batch, F latents (d_sae), D dimensions of the activations (d_in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Codes(ABC):
    """Activations of F latents for B tokens, on a *support*: the entries that are held, zeros among them allowed.

    What is not on the support is zero, and so is its gradient. All between encoder and decoder speaks to this type only.
    """

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
    def fired(self) -> Tensor:
        """Number of tokens that each latent is non-zero on [F], without gradient."""

    @abstractmethod
    def held(self) -> Tensor:
        """The values on the support, in any shape, with gradient."""

    @abstractmethod
    def weighted_l1(self, weights_F: Tensor) -> Tensor:
        """Σ_f w_f mean_B |z_f|: a scalar, with gradient to values and weights."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> Codes:
        """The codes with an elementwise function applied on the support; off it they stay zero."""

    @abstractmethod
    def scale_latents(self, factors_F: Tensor) -> Codes:
        """Each latent times its factor [F]: 0 ablates it."""

    @abstractmethod
    def set_latent(self, latent: int, value: float | Tensor) -> Codes:
        """One latent set to a value, for all tokens or for each [B]; the rest as they are."""

    @abstractmethod
    def narrow(self, start: int, stop: int) -> Codes:
        """The latents from `start` up to `stop` alone, as codes of stop - start latents."""

    @abstractmethod
    def select(self, tokens: Tensor) -> Codes:
        """Some tokens only: their numbers [N], or a mask [B]."""

    @abstractmethod
    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        """The product with decoder rows: [B, F] @ [F, D] → [B, D]."""

    def l0(self) -> Tensor:
        """Mean number of non-zero latents of a token: a scalar, without gradient."""
        return self.l0_per_token().float().mean()

    def l1(self) -> Tensor:
        """Σ_f mean_B |z_f|: a scalar, with gradient."""
        return in_full(self.held()).abs().sum() / self.shape[0]

    def lp(self, p: float) -> Tensor:
        """Σ_f mean_B |z_f|^p: a scalar. Zeros get no gradient, though its limit for p < 1 is infinite."""
        magnitudes = in_full(self.held()).abs()
        alive = magnitudes > 0
        return (magnitudes.where(alive, 1) ** p * alive).sum() / self.shape[0]

    def frequencies(self) -> Tensor:
        """Share of the tokens that each latent is non-zero on [F], without gradient."""
        return self.fired() / max(1, self.shape[0])

    def detach(self) -> Codes:
        """The same codes, cut off from the graph."""
        return self.map(torch.Tensor.detach)


class DenseCodes(Codes):
    """Codes stored as one tensor [B, F]; every entry is on the support.

    >>> codes = DenseCodes(torch.tensor([[0.0, 2.0, 0.0], [1.0, 3.0, 0.0]]))
    >>> codes.shape, codes.l0().item(), codes.fired().tolist()
    ((2, 3), 1.5, [1, 2, 0])
    >>> (codes @ torch.eye(3)).tolist()
    [[0.0, 2.0, 0.0], [1.0, 3.0, 0.0]]
    """

    def __init__(self, values_BF: Tensor) -> None:
        self.values_BF = values_BF

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_BF.shape[0], self.values_BF.shape[1]

    def dense(self) -> Tensor:
        return self.values_BF

    def held(self) -> Tensor:
        return self.values_BF

    def l0_per_token(self) -> Tensor:
        return (self.values_BF.detach() != 0).sum(-1)

    def fired(self) -> Tensor:
        return (self.values_BF.detach() != 0).sum(0)

    def weighted_l1(self, weights_F: Tensor) -> Tensor:
        return (in_full(self.values_BF).abs().sum(0) @ in_full(weights_F)) / len(self.values_BF)

    def map(self, function: Callable[[Tensor], Tensor]) -> DenseCodes:
        return DenseCodes(function(self.values_BF))

    def scale_latents(self, factors_F: Tensor) -> DenseCodes:
        return DenseCodes(self.values_BF * factors_F.to(self.values_BF))

    def set_latent(self, latent: int, value: float | Tensor) -> DenseCodes:
        values_BF = self.values_BF.clone()
        values_BF[:, latent] = value
        return DenseCodes(values_BF)

    def narrow(self, start: int, stop: int) -> DenseCodes:
        return DenseCodes(self.values_BF[:, start:stop])

    def select(self, tokens: Tensor) -> DenseCodes:
        return DenseCodes(self.values_BF[tokens])

    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        return self.values_BF @ weight_FD


def in_full(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is in half precision: sums over a batch need the digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def as_codes(values: Any) -> Codes:
    """A tensor [B, F] as codes; codes as they are."""
    if isinstance(values, Codes):
        return values
    if isinstance(values, torch.Tensor) and values.ndim == 2:
        return DenseCodes(values)
    raise TypeError(f"codes are a tensor [tokens, latents] or Codes, not {getattr(values, 'shape', type(values))}")
