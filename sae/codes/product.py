"""The product of sparse codes with a matrix, and its gradients, at the held entries only.

Shapes: B tokens, N entries held, F latents, D dimensions.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


def sparse_product(values_N: Tensor, latents_N: Tensor, tokens_N: Tensor, offsets: Tensor, weight_FD: Tensor) -> Tensor:
    """Σ over a token's entries of value · weight[latent]: [B, D].

    Computed in float32 at least, also under autocast, since sparse kernels have no half precision on every device; the
    result has the weight's type.
    """
    compute = torch.promote_types(values_N.dtype, weight_FD.dtype)
    if compute in (torch.float16, torch.bfloat16):
        compute = torch.float32
    with torch.autocast(weight_FD.device.type, enabled=False):
        product: Tensor = _SparseProduct.apply(values_N.to(compute), latents_N, tokens_N, offsets, weight_FD.to(compute))  # type: ignore[no-untyped-call]
    return product.to(weight_FD.dtype)


class _SparseProduct(torch.autograd.Function):
    """codes @ weight. The gradient of a value is grad · weight[latent]; that of the weight is codesᵀ @ grad."""

    @staticmethod
    def forward(ctx: Any, values_N: Tensor, latents_N: Tensor, tokens_N: Tensor, offsets: Tensor, weight_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_N, latents_N, tokens_N, offsets, weight_FD)
        tokens = len(offsets) - 1
        if not len(values_N) or not tokens:
            return weight_FD.new_zeros(tokens, weight_FD.shape[1])
        return _csr(offsets, latents_N, values_N, (tokens, len(weight_FD))) @ weight_FD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, Tensor | None]:
        (grad_BD,) = gradients
        values_N, latents_N, tokens_N, offsets, weight_FD = ctx.saved_tensors
        grad_values_N = grad_weight_FD = None
        if ctx.needs_input_grad[0]:
            grad_values_N = _sampled_product(grad_BD, weight_FD, latents_N, offsets)
        if ctx.needs_input_grad[4]:
            grad_weight_FD = _transposed_product(values_N, latents_N, tokens_N, len(weight_FD), grad_BD)
        return grad_values_N, None, None, None, grad_weight_FD


def _sampled_product(grad_BD: Tensor, weight_FD: Tensor, latents_N: Tensor, offsets: Tensor) -> Tensor:
    """(grad @ weightᵀ) at the held entries alone: [N]. torch's kernel gathers no [N, D], which would not fit for many."""
    zeros_N = grad_BD.new_zeros(len(latents_N))
    if not len(latents_N):
        return zeros_N
    pattern = _csr(offsets, latents_N, zeros_N, (len(grad_BD), len(weight_FD)))
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, grad_BD.contiguous(), weight_FD.T, beta=0.0)
    return sampled.values()


def _transposed_product(values_N: Tensor, latents_N: Tensor, tokens_N: Tensor, d_sae: int, grad_BD: Tensor) -> Tensor:
    """codesᵀ @ grad: [F, D]."""
    if not len(values_N):
        return grad_BD.new_zeros(d_sae, grad_BD.shape[1])
    # The transpose in CSR: entries in the order of their latent; a stable sort keeps sums in the order of tokens.
    latents, order = latents_N.sort(stable=True)
    rows = torch.searchsorted(latents, torch.arange(d_sae + 1, device=latents.device))
    return _csr(rows, tokens_N[order], values_N[order], (d_sae, len(grad_BD))) @ grad_BD


# torch says once in a process that its CSR tensors are in beta; said here, it is said to nobody.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0], [], [], (0, 1))


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(rows, columns, values, shape, check_invariants=False)
