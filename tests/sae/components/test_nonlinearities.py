"""TopK keeps the k largest, and nothing that is not positive."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.components.nonlinearities import TopK


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 25), st.integers(0, 2**31 - 1))
def test_keeps_the_k_largest_that_are_positive(tokens: int, latents: int, k: int, seed: int) -> None:
    preacts_BF = torch.randn(tokens, latents, generator=torch.Generator().manual_seed(seed))
    x = preacts_BF.numpy()
    rank = (-x).argsort(1).argsort(1)  # no ties among floats drawn at random
    expected = np.where((rank < k) & (x > 0), x, 0)
    np.testing.assert_array_equal(TopK(k)(preacts_BF).dense().numpy(), expected)


def test_exactly_k_are_active_where_as_many_are_positive() -> None:
    codes = TopK(3)(torch.rand(10, 8, generator=torch.Generator().manual_seed(0)) + 0.1)
    assert codes.l0_per_token().tolist() == [3] * 10


def test_gradient_reaches_the_kept_latents_only() -> None:
    preacts_BF = torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, 0.5, -3.0]], requires_grad=True)
    TopK(2)(preacts_BF).dense().sum().backward()
    assert preacts_BF.grad is not None
    assert preacts_BF.grad.tolist() == [[1, 0, 1, 0], [0, 0, 1, 0]]
