"""TopK and BatchTopK keep the largest and nothing that is not positive; JumpReLU and ProLU step where they should.

Shapes: B tokens in a batch, F latents.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.codes import SparseCodes
from sae.components import BatchTopK, JumpReLU, KAnnealConfig, ProLU, TopK
from sae.components.parameters import LatentBias, LatentThreshold
from sae.core import Cache

SIZES = (st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**31 - 1))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(*SIZES, st.integers(1, 25))
def test_topk_keeps_the_k_largest_that_are_positive(B: int, F: int, seed: int, k: int) -> None:
    preacts_BF = normal(B, F, seed=seed)
    x = preacts_BF.numpy()
    rank = (-x).argsort(1).argsort(1)  # no ties among floats drawn at random
    expected = np.where((rank < k) & (x > 0), x, 0)
    np.testing.assert_array_equal(TopK(k)(preacts_BF).dense().numpy(), expected)


def test_exactly_k_are_active_where_as_many_are_positive() -> None:
    codes = TopK(3)(normal(10, 8).abs() + 0.1)
    assert codes.l0_per_token().tolist() == [3] * 10


def test_gradient_reaches_the_kept_latents_only() -> None:
    preacts_BF = torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, 0.5, -3.0]], requires_grad=True)
    TopK(2)(preacts_BF).dense().sum().backward()
    assert preacts_BF.grad is not None
    assert preacts_BF.grad.tolist() == [[1, 0, 1, 0], [0, 0, 1, 0]]


@given(*SIZES, st.floats(0.1, 25))
def test_batchtopk_keeps_the_largest_of_the_batch(B: int, F: int, seed: int, k: float) -> None:
    preacts_BF = normal(B, F, seed=seed)
    x = preacts_BF.numpy()
    rank = (-x.ravel()).argsort().argsort().reshape(B, F)
    expected = np.where((rank < max(1, round(k * B))) & (x > 0), x, 0)
    np.testing.assert_array_equal(BatchTopK(k)(preacts_BF).dense().numpy(), expected)


@given(*SIZES, st.integers(1, 20))
def test_ties_never_make_it_keep_more(B: int, F: int, seed: int, k: int) -> None:
    preacts_BF = normal(B, F, seed=seed).sign()  # nothing but ties
    codes = BatchTopK(k)(preacts_BF)
    assert int(codes.l0_per_token().sum()) == min(int((preacts_BF > 0).sum()), k * B)


def test_threshold_is_the_corrected_mean_of_the_smallest_that_were_kept() -> None:
    module, decay, smallest = BatchTopK(2, decay=0.9), 0.9, []
    for step in range(5):
        preacts_BF = normal(8, 16, seed=step)
        module(preacts_BF, cache=Cache(step, 5))
        smallest.append(np.sort(np.maximum(preacts_BF.numpy().ravel(), 0))[-16])
    weights = decay ** np.arange(4, -1, -1)
    mean = float((weights * smallest).sum() / weights.sum())
    assert float(module.threshold.value / module.threshold.log_factor.exp()) == pytest.approx(mean, rel=1e-5)


def test_threshold_rises_while_more_exceed_it_than_training_keeps() -> None:
    module = BatchTopK(1, decay=0.9)
    preacts_BF = torch.arange(1.0, 9.0)[None]
    module(preacts_BF, cache=Cache(0, 9))  # 8 is kept, so the threshold is 8, which none exceeds
    assert float(module.threshold.log_factor) == 0
    module(preacts_BF, cache=Cache(1, 9))
    assert float(module.threshold.log_factor) == pytest.approx(0.1 * math.log(1 / 2))
    module(preacts_BF + 1, cache=Cache(2, 9))  # now two exceed it, 8 and 9, and one is kept
    assert float(module.threshold.log_factor) == pytest.approx(0.1 * (math.log(1 / 2) + math.log(3 / 2)), abs=1e-6)


def test_threshold_is_zero_where_fewer_are_positive_than_may_be_kept() -> None:
    module = BatchTopK(4)
    module(torch.tensor([[1.0, 2.0, -1.0, -1.0, -1.0]]), cache=Cache(0, 1))
    assert float(module.threshold.value) == 0


def test_only_steps_of_training_move_the_threshold() -> None:
    module = BatchTopK(2)
    module(normal(8, 16))  # a look at the codes
    module.eval()(normal(8, 16), cache=Cache(3, 10))
    assert float(module.threshold.weight) == 0


def test_in_use_a_token_does_not_depend_on_its_neighbours() -> None:
    module = BatchTopK(2)
    module(normal(64, 32), cache=Cache(0, 1))
    module.eval()
    preacts_BF = normal(10, 32, seed=1)
    codes_BF = module(preacts_BF).dense()
    assert torch.equal(codes_BF, torch.cat([module(row[None]).dense() for row in preacts_BF]))
    assert torch.equal(codes_BF, preacts_BF * (preacts_BF > module.threshold.value))


@pytest.mark.parametrize("k", [3.0, 8.0, 20.5])
def test_l0_in_use_is_that_of_training(k: float) -> None:
    module = BatchTopK(k)
    for step in range(400):
        module(normal(128, 200, seed=step) - 1, cache=Cache(step, 400))
    codes = module.eval()(normal(20_000, 200, seed=-1) - 1)
    assert float(codes.l0()) == pytest.approx(k, rel=0.02)


@given(*SIZES, st.floats(0.05, 2), st.floats(0.01, 1))
def test_jumprelu_passes_what_is_above_its_latents_threshold(
    B: int, F: int, seed: int, threshold: float, bandwidth: float
) -> None:
    preacts_BF, log_F = normal(B, F, seed=seed), math.log(threshold) + 0.1 * normal(F, seed=seed + 1)
    module, cache = JumpReLU(LatentThreshold(log_F), bandwidth), Cache()
    codes = module(preacts_BF, cache=cache)
    expected = preacts_BF.numpy() * (preacts_BF.numpy() > log_F.exp().numpy())
    np.testing.assert_array_equal(codes.dense().detach().numpy(), expected)
    assert float(cache.read("l0_surrogate").detach()) == pytest.approx(float((expected != 0).sum() / B), rel=1e-6)


def test_jumprelu_holds_its_band_only_where_a_gradient_is_wanted() -> None:
    preacts_BF, log = torch.full((1, 100), -1.0), LatentThreshold(torch.zeros(100))
    preacts_BF[0, :3] = torch.tensor([0.9, 1.05, 2.0])  # in the band, in the band and active, active
    codes = JumpReLU(log, 0.3)(preacts_BF)
    assert isinstance(codes, SparseCodes)
    assert codes.latents_N.tolist() == [0, 1, 2]
    with torch.no_grad():
        assert JumpReLU(log, 0.3)(preacts_BF).latents_N.tolist() == [1, 2]


def test_thresholds_are_compared_in_full_precision_under_autocast() -> None:
    log = LatentThreshold(torch.log(torch.tensor([1.001, 0.999])))
    codes = JumpReLU(log, 0.1)(torch.ones(1, 2, dtype=torch.bfloat16))  # both thresholds are 1 in bfloat16
    assert codes.dense().tolist() == [[0, 1]]


@pytest.mark.parametrize("gradient", ["relu", "ste"])
@given(*SIZES)
def test_prolus_bias_decides_and_takes_nothing_away(gradient: Any, B: int, F: int, seed: int) -> None:
    preacts_BF, bias_F = normal(B, F, seed=seed), normal(F, seed=seed + 1)
    m, b = preacts_BF.numpy(), bias_F.numpy()
    codes = ProLU(LatentBias(bias_F), gradient)(preacts_BF)
    np.testing.assert_array_equal(codes.dense().detach().numpy(), np.where((m > 0) & (m + b > 0), m, 0))


@pytest.mark.parametrize(("step", "k"), [(0, 12), (25, 6), (50, 3), (75, 3), (99, 3)])
@pytest.mark.parametrize("kind", [TopK, BatchTopK])
def test_k_comes_down_geometrically_over_the_first_part_of_the_run(kind: type[Any], step: int, k: int) -> None:
    module = kind(3, KAnnealConfig(start=4, until=0.5))
    preacts_BF = torch.rand(8, 32, generator=torch.Generator().manual_seed(0)) + 1
    assert float(module(preacts_BF, cache=Cache(step, 100)).l0()) == k


def test_k_is_not_annealed_in_use() -> None:
    module = TopK(3, KAnnealConfig(start=4)).eval()
    assert float(module(torch.rand(8, 32) + 1, cache=Cache(0, 100)).l0()) == 3
