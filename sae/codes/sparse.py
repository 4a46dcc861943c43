"""Codes that hold a few latents a token, and products that touch no others.

Shapes: B tokens, K latents held for each, F latents in all, D dimensions of the activations.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from sae.codes.codes import Codes


class SparseCodes(Codes):
    """K latents for each token. Every latent that is not held is zero, and its gradient is exactly zero too.

    Args:
        values_BK: activations; some may be zero.
        latents_BK: which latents they belong to; no latent twice for a token.
        d_sae: number of latents in all.
    """

    def __init__(self, values_BK: Tensor, latents_BK: Tensor, d_sae: int) -> None:
        self.values_BK, self.latents_BK, self.d_sae = values_BK, latents_BK, d_sae

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values_BK), self.d_sae

    def dense(self) -> Tensor:
        zeros_BF = self.values_BK.new_zeros(self.shape)
        return zeros_BF.scatter(-1, self.latents_BK, self.values_BK)

    def l0_per_token(self) -> Tensor:
        return (self.values_BK.detach() != 0).sum(-1)

    def l1(self) -> Tensor:
        return self.values_BK.abs().sum() / len(self.values_BK)

    def fired(self) -> Tensor:
        firing = self.latents_BK[self.values_BK.detach() != 0]
        return torch.bincount(firing, minlength=self.d_sae)

    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        product: Tensor = _SparseProduct.apply(self.values_BK, self.latents_BK, weight_FD)  # type: ignore[no-untyped-call]
        return product

    def detach(self) -> SparseCodes:
        return SparseCodes(self.values_BK.detach(), self.latents_BK, self.d_sae)


class _SparseProduct(torch.autograd.Function):
    """codes @ weight and its gradients, at the held latents only: Σ_k z_bk W[f_bk]."""

    @staticmethod
    def forward(ctx: Any, values_BK: Tensor, latents_BK: Tensor, weight_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_BK, latents_BK, weight_FD)
        tokens, held = values_BK.shape
        rows = torch.arange(0, tokens * held + 1, held, device=values_BK.device)
        return _csr(rows, latents_BK.flatten(), values_BK.flatten(), (tokens, len(weight_FD))) @ weight_FD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        (grad_BD,) = gradients
        values_BK, latents_BK, weight_FD = ctx.saved_tensors
        grad_values_BK = grad_weight_FD = None
        if ctx.needs_input_grad[0]:
            grad_values_BK = torch.bmm(weight_FD[latents_BK], grad_BD.unsqueeze(-1)).squeeze(-1)
        if ctx.needs_input_grad[2]:
            # The transpose in CSR: entries in the order of their latent; a stable sort keeps sums in the order of tokens.
            tokens, held = values_BK.shape
            latents, order = latents_BK.flatten().sort(stable=True)
            counts = torch.bincount(latents, minlength=len(weight_FD))
            rows = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            token_of = order.div(held, rounding_mode="floor")
            grad_weight_FD = _csr(rows, token_of, values_BK.flatten()[order], (len(weight_FD), tokens)) @ grad_BD
        return grad_values_BK, None, grad_weight_FD


# torch says once in a process that its CSR tensors are in beta; said here, it is said to nobody.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0], [], [], (0, 1))


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(rows, columns, values, shape, check_invariants=False)
