"""Codes: counts, sums and products, against float64 arithmetic written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.codes import Codes, DenseCodes, as_codes

VALUES_BF = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])


def test_counts_and_sums_of_a_small_example() -> None:
    codes = as_codes(VALUES_BF)
    assert codes.shape == (3, 4)
    assert codes.l0_per_token().tolist() == [2, 1, 1]
    assert float(codes.l0()) == pytest.approx(4 / 3)
    assert float(codes.l1()) == pytest.approx((2 + 1 + 0.5 + 3) / 3)
    assert codes.fired().tolist() == [1, 1, 0, 2]


def test_negative_activations_count_as_active() -> None:
    codes = as_codes(torch.tensor([[-1.0, 0.0]]))
    assert codes.l0_per_token().tolist() == [1]
    assert float(codes.l1()) == 1.0


def test_gradient_of_l1_is_the_sign_over_the_tokens() -> None:
    values_BF = VALUES_BF.clone().requires_grad_()
    as_codes(values_BF).l1().backward()
    assert values_BF.grad is not None
    torch.testing.assert_close(values_BF.grad, VALUES_BF.sign() / 3)


def test_counts_carry_no_gradient() -> None:
    codes = as_codes(VALUES_BF.clone().requires_grad_())
    assert not codes.l0().requires_grad
    assert not codes.fired().requires_grad
    assert not codes.detach().dense().requires_grad


@given(st.integers(1, 9), st.integers(1, 17), st.integers(1, 7), st.integers(0, 2**31 - 1))
def test_product_and_its_gradients_equal_the_dense_ones_in_float64(B: int, F: int, D: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values_BF = torch.randn(B, F, generator=generator).relu()
    weight_FD, upstream_BD = torch.randn(F, D, generator=generator), torch.randn(B, D, generator=generator)
    codes_leaf, weight_leaf = values_BF.clone().requires_grad_(), weight_FD.clone().requires_grad_()
    product = as_codes(codes_leaf) @ weight_leaf
    product.backward(upstream_BD)
    z, w, g = (t.numpy().astype(np.float64) for t in (values_BF, weight_FD, upstream_BD))
    np.testing.assert_allclose(product.detach().numpy(), z @ w, rtol=1e-4, atol=1e-5)
    assert codes_leaf.grad is not None
    assert weight_leaf.grad is not None
    np.testing.assert_allclose(codes_leaf.grad.numpy(), g @ w.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weight_leaf.grad.numpy(), z.T @ g, rtol=1e-4, atol=1e-5)


def test_codes_stay_as_they_are_and_give_their_dense_form() -> None:
    codes = as_codes(VALUES_BF)
    assert isinstance(codes, DenseCodes)
    assert as_codes(codes) is codes
    assert torch.equal(codes.dense(), VALUES_BF)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 3, 4), [[0.0]], None])
def test_what_is_no_matrix_is_no_codes(wrong: object) -> None:
    with pytest.raises(TypeError, match="tokens, latents"):
        as_codes(wrong)


def test_codes_is_an_interface() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Codes()  # type: ignore[abstract]
