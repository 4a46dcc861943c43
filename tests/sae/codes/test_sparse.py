"""Sparse codes say and do exactly what the dense codes of the same values do.

Shapes: B tokens, K latents held, N entries in all, F latents, D dimensions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.codes import Codes, DenseCodes, SparseCodes, on_support

SHAPES = (st.integers(0, 9), st.integers(1, 16), st.integers(1, 7), st.integers(0, 2**31 - 1))
DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def values_and_support(B: int, F: int, seed: int) -> tuple[Tensor, Tensor]:
    """Values, some negative, on a random support of which about a third is zero; rows and latents may be empty."""
    generator = torch.Generator().manual_seed(seed)
    share = float(torch.rand((), generator=generator))
    support_BF = torch.rand(B, F, generator=generator) < share
    zero_BF = torch.rand(B, F, generator=generator) < 0.3
    return random(B, F, seed=seed) * (support_BF & ~zero_BF), support_BF


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-12, atol=1e-12)


@given(*SHAPES)
def test_figures_equal_those_of_the_matrix(B: int, F: int, D: int, seed: int) -> None:
    values_BF, support_BF = values_and_support(B, F, seed)
    codes, z = SparseCodes.from_mask(values_BF, support_BF), values_BF.numpy()
    assert codes.shape == z.shape
    assert len(codes.held()) == int(support_BF.sum())
    np.testing.assert_array_equal(codes.dense().numpy(), z)
    np.testing.assert_array_equal(codes.l0_per_token().numpy(), (z != 0).sum(1))
    np.testing.assert_array_equal(codes.fired().numpy(), (z != 0).sum(0))
    assert codes.fired().dtype == DenseCodes(codes.dense()).fired().dtype
    close(codes.frequencies(), ((z != 0).sum(0) / max(1, B)).astype(np.float32))
    if B:
        assert float(codes.l0()) == pytest.approx((z != 0).sum(1).mean(), rel=1e-6)
        close(codes.l1(), np.abs(z).sum() / B)


FUNCTIONS: dict[str, Callable[[Codes, Tensor], Tensor]] = {
    "product": lambda codes, weight_FD: codes @ weight_FD,
    "l1": lambda codes, _: codes.l1(),
    "weighted l1": lambda codes, weight_FD: codes.weighted_l1(weight_FD.norm(dim=1)),
    "squares": lambda codes, _: codes.lp(2.0),
    "roots": lambda codes, _: codes.map(lambda v: v.where(v == 0, v + 2 * v.sign())).lp(0.5),  # away from the pole at 0
    "dense": lambda codes, _: codes.dense(),
    "map": lambda codes, weight_FD: codes.map(torch.tanh) @ weight_FD,
    "scaled": lambda codes, weight_FD: codes.scale_latents(weight_FD[:, 0]) @ weight_FD,
    "set": lambda codes, weight_FD: codes.set_latent(0, 3.0) @ weight_FD,
    "set by token": lambda codes, weight_FD: codes.set_latent(0, torch.arange(codes.shape[0]).to(DOUBLE)) @ weight_FD,
    "narrowed": lambda codes, weight_FD: codes.narrow(1, codes.shape[1]) @ weight_FD[1:],
    "selected": lambda codes, weight_FD: codes.select(torch.arange(codes.shape[0]).flip(0).repeat(2)) @ weight_FD,
    "masked": lambda codes, weight_FD: codes.select(torch.arange(codes.shape[0]) % 2 == 0) @ weight_FD,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@given(*SHAPES)
def test_operation_and_its_gradients_equal_the_dense_ones(name: str, B: int, F: int, D: int, seed: int) -> None:
    """The dense ones are plain tensor arithmetic of torch in float64, with torch's own gradients."""
    B = max(B, 1)
    values_BF, support_BF = values_and_support(B, F, seed)
    outcomes = []
    for make in (SparseCodes.from_mask, lambda values, _: DenseCodes(values)):
        values, weight = values_BF.clone().requires_grad_(), random(F, D, seed=seed + 1).requires_grad_()
        out = FUNCTIONS[name](make(values, support_BF), weight)
        if out.requires_grad:
            (out * random(*out.shape, seed=seed + 2)).sum().backward()
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (values, weight)]
        outcomes.append((out.detach(), gradients[0] * support_BF, gradients[1], gradients[0]))
    for sparse, dense in zip(outcomes[0][:3], outcomes[1][:3], strict=True):
        close(sparse, dense)
    assert not (outcomes[0][3] * ~support_BF).any()  # what is not held has a gradient of exactly zero


@given(*SHAPES)
def test_product_equals_the_arithmetic_written_out(B: int, F: int, D: int, seed: int) -> None:
    values_BF, support_BF = values_and_support(B, F, seed)
    values, weight = values_BF.clone().requires_grad_(), random(F, D, seed=seed).requires_grad_()
    upstream_BD = random(B, D, seed=seed + 1)
    product = SparseCodes.from_mask(values, support_BF) @ weight
    product.backward(upstream_BD)
    z, w, g = values_BF.numpy(), weight.detach().numpy(), upstream_BD.numpy()
    assert values.grad is not None
    assert weight.grad is not None
    close(product.detach(), z @ w)
    close(values.grad, (g @ w.T) * support_BF.numpy())
    close(weight.grad, z.T @ g)


@given(st.integers(0, 9), st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**31 - 1))
def test_rows_of_a_fixed_count_are_the_same_codes(B: int, K: int, more: int, seed: int) -> None:
    generator, F = torch.Generator().manual_seed(seed), K + more
    orders = [torch.randperm(F, generator=generator)[:K] for _ in range(B)]
    latents_BK = torch.stack(orders) if orders else torch.zeros(0, K, dtype=torch.int64)
    values_BK = random(B, K, seed=seed)
    codes = SparseCodes.from_rows(values_BK, latents_BK, F)
    expected = np.zeros((B, F))
    np.put_along_axis(expected, latents_BK.numpy(), values_BK.numpy(), axis=1)
    np.testing.assert_array_equal(codes.dense().numpy(), expected)
    np.testing.assert_array_equal(SparseCodes.from_dense(codes.dense()).dense().numpy(), expected)
    np.testing.assert_array_equal(codes.l0_per_token().numpy(), (expected != 0).sum(1))


def test_gradients_pass_torchs_own_check() -> None:
    values_BF, support_BF = values_and_support(4, 6, seed=1)

    def product(values: Tensor, weight: Tensor) -> Tensor:
        return SparseCodes.from_mask(values, support_BF) @ weight

    assert torch.autograd.gradcheck(product, (values_BF.clone().requires_grad_(), random(6, 2).requires_grad_()))


@pytest.mark.parametrize("frozen", ["values", "weight"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    values = torch.randn(4, 6).requires_grad_(frozen != "values")
    weight = torch.ones(6, 2).requires_grad_(frozen != "weight")
    (SparseCodes.from_mask(values, values > 0) @ weight).sum().backward()  # a sum's gradient is an expanded scalar
    assert (values.grad is None) == (frozen == "values")
    assert (weight.grad is None) == (frozen == "weight")


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_zeros_get_no_gradient_from_a_fractional_power(p: float) -> None:
    values = torch.tensor([[0.0, 4.0], [-1.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    for codes in (DenseCodes(values), SparseCodes.from_mask(values, torch.ones(2, 2, dtype=torch.bool))):
        values.grad = None
        total = codes.lp(p)
        total.backward()
        close(total.detach(), (4**p + 1) / 2)
        assert values.grad is not None
        close(values.grad, [[0, p * 4 ** (p - 1) / 2], [-p / 2, 0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_product_under_autocast_is_computed_in_full_precision(dtype: torch.dtype) -> None:
    weight, x = torch.randn(64, 16, requires_grad=True), torch.randn(8, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        codes = SparseCodes.from_mask(x.to(dtype), x > 1)
        product = codes @ weight
        assert codes.l1().dtype == torch.float32
        assert codes.weighted_l1(weight.norm(dim=1)).dtype == torch.float32
    product.square().sum().backward()
    expected = codes.dense().double() @ weight.double()
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-5)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), codes.dense().double().T @ (2 * expected), rtol=1e-4, atol=1e-4)


def test_half_precision_weights_give_a_result_of_their_type() -> None:
    weight = torch.randn(6, 4, dtype=torch.bfloat16)
    product = SparseCodes.from_dense(torch.eye(6)[:2].bfloat16()) @ weight
    assert product.dtype == torch.bfloat16
    assert torch.equal(product, weight[:2])


def test_detached_codes_are_cut_off_from_the_graph() -> None:
    codes = SparseCodes.from_dense(torch.ones(1, 1, requires_grad=True))
    assert codes.dense().requires_grad
    assert not codes.detach().dense().requires_grad
    assert not codes.l0().requires_grad
    assert not codes.fired().requires_grad


@pytest.mark.parametrize(("held", "sparse"), [(0, True), (100, True), (101, False), (800, False)])
def test_few_entries_are_kept_sparse_and_many_dense(held: int, sparse: bool) -> None:
    support_BF = (torch.arange(800) < held).view(8, 100)
    values_BF = random(8, 100) * support_BF
    codes = on_support(values_BF, support_BF)
    assert isinstance(codes, SparseCodes) == sparse
    assert torch.equal(codes.dense(), values_BF)


def test_same_product_has_the_same_bytes_every_time() -> None:
    codes, weight_FD = SparseCodes.from_dense((torch.randn(64, 100) - 1).relu()), torch.randn(100, 16)
    gradients = []
    for _ in range(3):
        weight = weight_FD.clone().requires_grad_()
        (codes @ weight).square().sum().backward()
        gradients.append(weight.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])  # type: ignore[arg-type]


def test_products_print_no_warning() -> None:
    program = "import torch\nfrom sae.codes import SparseCodes\n"
    program += "values, weight = torch.eye(2, 3, requires_grad=True), torch.ones(3, 3, requires_grad=True)\n"
    program += "(SparseCodes.from_mask(values, values > 0) @ weight).sum().backward()\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
