"""Statistics of a sample, against NumPy in float64; the geometric median against closed forms and scipy."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from sae.architectures.vanilla import VanillaSAE
from sae.config import Failure, InputError, derive_seed
from sae.statistics import geometric_median
from sae.training import normalize
from sae.training.normalize import center, fit_normalizer, sample
from tests.sae.every_architecture import RawSource
from tests.sae.synthetic import SyntheticSource

SOURCE = RawSource([3, 5])
X_ND, _ = SOURCE.rows(3000)
CROSS = RawSource([3, 5], [4, 2])


def test_sqrt_d_scales_every_hook_point_to_a_mean_norm_of_the_root_of_its_width() -> None:
    n = fit_normalizer("sqrt_d", SOURCE, X_ND, X_ND)
    wide = X_ND.double().numpy()
    for part, scale in zip(np.split(wide, [3], 1), np.split(n.scale_D.numpy(), [3]), strict=True):
        np.testing.assert_allclose(scale, math.sqrt(part.shape[1]) / np.linalg.norm(part, axis=1).mean(), rtol=1e-6)
    assert not n.shift_D.any()
    for part, d in zip(n.normalize(X_ND).split([3, 5], 1), (3, 5), strict=True):
        assert float(part.norm(dim=1).mean()) == pytest.approx(math.sqrt(d), rel=1e-5)
    assert torch.equal(n.scale_D, n.scale_E)


def test_per_dim_brings_each_dimension_to_mean_0_and_deviation_1() -> None:
    n = fit_normalizer("per_dim", SOURCE, X_ND, X_ND)
    wide = X_ND.double().numpy()
    np.testing.assert_allclose(n.shift_D.numpy(), wide.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(n.scale_D.numpy(), 1 / wide.std(0), rtol=1e-6)
    assert torch.equal(n.shift_D, n.shift_E)


def test_small_deviations_about_a_large_mean_are_not_drowned() -> None:
    x_ND = 1000 + torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) / 10
    n = fit_normalizer("per_dim", SOURCE, x_ND, x_ND)
    np.testing.assert_allclose(n.scale_D.numpy(), 1 / x_ND.double().numpy().std(0), rtol=1e-6)


def test_dimension_that_never_varies_is_not_blown_up() -> None:
    x_ND = X_ND.clone()
    x_ND[:, 2] = 4.0
    n = fit_normalizer("per_dim", SOURCE, x_ND, x_ND)
    assert n.scale_D.isfinite().all()
    assert not n.normalize(x_ND)[:, 2].any()


def test_layer_norm_has_the_widths_of_the_hook_points() -> None:
    n = fit_normalizer("layer_norm", SOURCE, X_ND, X_ND)
    assert (n.kind, n.widths) == ("layer_norm", [3, 5])


def test_none_is_the_identity() -> None:
    assert fit_normalizer("none", SOURCE, X_ND, X_ND).is_identity


@pytest.mark.parametrize("kind", ["sqrt_d", "per_dim"])
def test_targets_have_statistics_of_their_own(kind: normalize.Normalize) -> None:
    x_ND, y_NE = CROSS.rows(3000)
    n = fit_normalizer(kind, CROSS, x_ND, y_NE)
    assert (n.widths, n.target_widths) == ([3, 5], [4, 2])
    for part_NE, d in zip(n.normalize_target(y_NE, x_ND).split([4, 2], 1), (4, 2), strict=True):
        if kind == "sqrt_d":
            assert float(part_NE.norm(dim=1).mean()) == pytest.approx(math.sqrt(d), rel=1e-5)
        else:
            torch.testing.assert_close(part_NE.std(0, unbiased=False), torch.ones(d))


def test_layer_norm_of_another_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.normalize: .*expected none, sqrt_d or per_dim"):
        fit_normalizer("layer_norm", CROSS, *CROSS.rows(100))


@pytest.mark.parametrize("kind", ["sqrt_d", "per_dim"])
def test_activations_of_nothing_cannot_be_normalised(kind: normalize.Normalize) -> None:
    zeros = torch.zeros(100, 8)
    with pytest.raises(Failure, match=r"expected train\.normalize: none"):
        fit_normalizer(kind, SOURCE, zeros, zeros)


def test_sample_is_of_a_stream_of_its_own_and_keeps_targets_that_are_inputs() -> None:
    source = RawSource([3])
    x_ND, y_ND = sample(source, seed=7)
    assert x_ND is y_ND
    assert x_ND.shape == (4096, 3)
    assert {seed for seed, _ in source.served} == {derive_seed(7, "statistics")}
    first = torch.cat([x_BD for x_BD, _ in islice(source.batches(4096, seed=7), 1)])
    assert not torch.equal(x_ND, first)
    x_ND, y_NE = sample(RawSource([3], [2]), seed=7)
    assert (x_ND.shape[1], y_NE.shape[1]) == (3, 2)


def test_activations_that_are_not_finite_are_refused() -> None:
    class Broken(SyntheticSource):
        def sample(self, count: int, *names: str) -> Tensor:
            return super().sample(count, *names).where(torch.rand(count, 1) > 0.001, torch.inf)

    with pytest.raises(Failure, match=r"synthetic: .*not finite"):
        sample(Broken(), 0)


def test_center_is_where_the_decoder_bias_starts() -> None:
    architecture = VanillaSAE(d_in=3, d_sae=4)
    center(architecture, torch.tensor([1.0, 2.0, 3.0]))
    assert architecture.init.decoder.bias.tolist() == [1.0, 2.0, 3.0]


# The geometric median.


def summed_distance(x_ND: Tensor, m_D: Tensor) -> float:
    return float((x_ND.double() - m_D.double()).norm(dim=1).sum())


@pytest.mark.parametrize(
    ("rows", "median"),
    [
        ([[0.0, 0], [1, 1], [10, 10]], [1.0, 1]),  # on a line, the median of an odd number of points
        ([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1]], [1.0, 1]),  # symmetric about a point that is a row
        ([[1.0, 0], [-1, 0], [0, 1], [0, -1]], [0.0, 0]),  # symmetric, no row there
        ([[0.0, 0], [4, 0], [4, 3], [0, 3]], [2.0, 1.5]),  # where the diagonals of a quadrangle meet
        ([[5.0, 5]] * 3 + [[100.0, 0], [0, 100]], [5.0, 5]),  # three rows hold it against two
        ([[2.0, 3]], [2.0, 3]),
        ([[2.0, 3]] * 4, [2.0, 3]),
    ],
)
def test_geometric_median_in_closed_form(rows: list[list[float]], median: list[float]) -> None:
    found = geometric_median(torch.tensor(rows), iterations=1000, tolerance=1e-9)
    torch.testing.assert_close(found, torch.tensor(median), rtol=1e-3, atol=1e-3)


def test_fermat_point_sees_every_side_of_a_triangle_under_120_degrees() -> None:
    x_ND = torch.tensor([[0.0, 0], [4, 0], [1, 3]], dtype=torch.float64)
    unit = torch.nn.functional.normalize(x_ND - geometric_median(x_ND, iterations=1000, tolerance=1e-12), dim=1)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert float(unit[a] @ unit[b]) == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_geometric_median_is_what_scipy_minimises(seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(200, 5, generator=stream) * torch.linspace(0.3, 3, 5) + 4
    x_ND[:20] += 300  # outliers
    mine = geometric_median(x_ND)
    wide = x_ND.double().numpy()

    def slope(m: np.ndarray) -> np.ndarray:
        away = m - wide
        return np.asarray((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0))

    best = minimize(lambda m: np.linalg.norm(m - wide, axis=1).sum(), np.median(wide, 0), jac=slope, tol=1e-9)
    assert summed_distance(x_ND, mine) <= best.fun * (1 + 1e-6)
    np.testing.assert_allclose(mine.numpy(), best.x, atol=2e-3)
    assert float((mine - x_ND[20:].mean(0)).norm()) < 1 < float((x_ND.mean(0) - x_ND[20:].mean(0)).norm())


def test_a_row_that_the_iteration_starts_on_does_not_hold_it() -> None:
    x_ND = torch.tensor([[0.0, 0], [-3, 0], [1, 1], [1, -1], [1, 0]])  # the mean is the first row; the median is not
    assert x_ND.mean(0).tolist() == [0.0, 0.0]
    found = geometric_median(x_ND, iterations=2000, tolerance=1e-9)
    least = min(summed_distance(x_ND, torch.tensor([a, 0.0])) for a in np.linspace(-1, 1.5, 2001))
    assert summed_distance(x_ND, found) <= least * (1 + 1e-6)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.integers(3, 30), st.integers(1, 4))
def test_geometric_median_moves_turns_and_scales_with_the_rows(seed: int, scale: float, count: int, d: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    x_ND, shift_D, square_DD = (torch.randn(*s, generator=stream, dtype=torch.float64) for s in ((count, d), (d,), (d, d)))
    turn_DD, _ = torch.linalg.qr(square_DD)
    m_D = geometric_median(x_ND, iterations=300)
    moved_D = geometric_median(scale * x_ND @ turn_DD + shift_D, iterations=300)
    torch.testing.assert_close(moved_D, scale * m_D @ turn_DD + shift_D, rtol=1e-5, atol=1e-5 * scale)
