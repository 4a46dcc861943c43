"""Sparse codes say and do exactly what the dense codes of the same values do.

Shapes: B tokens, K latents held, F latents, D dimensions.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.codes import DenseCodes, SparseCodes

SHAPES = (st.integers(1, 9), st.integers(1, 12), st.integers(0, 12), st.integers(1, 7), st.integers(0, 2**31 - 1))


def sparse(B: int, K: int, F: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> SparseCodes:
    """Random codes: K different latents a token in no order, about a third of them zero, some negative."""
    latents_BK = torch.stack([torch.randperm(F, generator=generator)[:K] for _ in range(B)])
    values_BK = torch.randn(B, K, generator=generator, dtype=torch.float64).to(dtype)
    values_BK[torch.rand(B, K, generator=generator) < 0.3] = 0
    return SparseCodes(values_BK, latents_BK, F)


def written_out(codes: SparseCodes) -> np.ndarray:
    z = np.zeros(codes.shape)
    for b, (values, latents) in enumerate(zip(codes.values_BK.tolist(), codes.latents_BK.tolist(), strict=True)):
        for value, latent in zip(values, latents, strict=True):
            z[b, latent] = value
    return z


@given(*SHAPES)
def test_figures_equal_those_of_the_codes_written_out(B: int, K: int, more: int, D: int, seed: int) -> None:
    codes = sparse(B, K, K + more, torch.Generator().manual_seed(seed))
    z = written_out(codes)
    assert codes.shape == z.shape
    np.testing.assert_array_equal(codes.dense().numpy(), z)
    np.testing.assert_array_equal(codes.l0_per_token().numpy(), (z != 0).sum(1))
    np.testing.assert_array_equal(codes.fired().numpy(), (z != 0).sum(0))
    assert float(codes.l0()) == pytest.approx((z != 0).sum(1).mean(), rel=1e-6)
    assert float(codes.l1()) == pytest.approx(np.abs(z).sum() / B)
    assert codes.fired().dtype == DenseCodes(codes.dense()).fired().dtype


@given(*SHAPES)
def test_product_and_gradients_equal_the_dense_ones(B: int, K: int, more: int, D: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = sparse(B, K, K + more, generator)
    weight_FD = torch.randn(K + more, D, generator=generator, dtype=torch.float64)
    upstream_BD = torch.randn(B, D, generator=generator, dtype=torch.float64)
    values, weight = codes.values_BK.clone().requires_grad_(), weight_FD.clone().requires_grad_()
    product = SparseCodes(values, codes.latents_BK, K + more) @ weight
    product.backward(upstream_BD)
    z, w, g = written_out(codes), weight_FD.numpy(), upstream_BD.numpy()
    np.testing.assert_allclose(product.detach().numpy(), z @ w, rtol=1e-12, atol=1e-12)
    assert values.grad is not None
    assert weight.grad is not None
    np.testing.assert_allclose(values.grad.numpy(), np.take_along_axis(g @ w.T, codes.latents_BK.numpy(), 1), atol=1e-12)
    np.testing.assert_allclose(weight.grad.numpy(), z.T @ g, rtol=1e-12, atol=1e-12)


def test_gradients_pass_torchs_own_check() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = sparse(4, 3, 6, generator)
    weight_FD = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def product(values: Tensor, weight: Tensor) -> Tensor:
        return SparseCodes(values, codes.latents_BK, 6) @ weight

    assert torch.autograd.gradcheck(product, (codes.values_BK.clone().requires_grad_(), weight_FD))


@pytest.mark.parametrize("frozen", ["values", "weight"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    codes = sparse(4, 3, 6, torch.Generator().manual_seed(0), torch.float32)
    values = codes.values_BK.clone().requires_grad_(frozen != "values")
    weight = torch.ones(6, 2).requires_grad_(frozen != "weight")
    (SparseCodes(values, codes.latents_BK, 6) @ weight).sum().backward()  # a sum's gradient is an expanded scalar
    assert (values.grad is None) == (frozen == "values")
    assert (weight.grad is None) == (frozen == "weight")


def test_rows_of_silent_latents_get_a_gradient_of_exactly_zero() -> None:
    weight = torch.ones(6, 2, requires_grad=True)
    (SparseCodes(torch.ones(2, 2), torch.tensor([[0, 3], [3, 5]]), 6) @ weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [1, 0, 0, 2, 0, 1]


def test_gradient_of_l1_reaches_the_values() -> None:
    values = torch.tensor([[2.0, -3.0]], requires_grad=True)
    SparseCodes(values, torch.tensor([[1, 0]]), 4).l1().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1, -1]]


def test_detached_codes_are_cut_off_from_the_graph() -> None:
    codes = SparseCodes(torch.ones(1, 1, requires_grad=True), torch.tensor([[2]]), 4)
    assert not codes.detach().dense().requires_grad
    assert torch.equal(codes.detach().dense(), codes.dense().detach())


def test_no_tokens_are_no_error() -> None:
    codes = SparseCodes(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), 5)
    assert (codes @ torch.ones(5, 2)).shape == (0, 2)
    assert codes.dense().shape == (0, 5)
    assert codes.fired().tolist() == [0] * 5


def test_same_product_has_the_same_bytes_every_time() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, weight_FD = sparse(64, 8, 100, generator, torch.float32), torch.randn(100, 16, generator=generator)
    gradients = []
    for _ in range(3):
        weight = weight_FD.clone().requires_grad_()
        (codes @ weight).square().sum().backward()
        gradients.append(weight.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])  # type: ignore[arg-type]


def test_products_print_no_warning() -> None:
    program = "import torch\nfrom sae.codes import SparseCodes\n"
    program += "SparseCodes(torch.ones(1, 1), torch.tensor([[0]]), 2) @ torch.ones(2, 3)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
