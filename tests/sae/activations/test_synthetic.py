import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from sae.activations.synthetic import SyntheticConfig, SyntheticSource, firing_probabilities
from sae.config import InputError

ROWS = 40_000


def small(**changes: object) -> SyntheticSource:
    config = {"features": 24, "widths": [8], "l0": 3.0, "min_probability": 0.02, "correlation_rank": 3, "correlation": 0.6}
    return SyntheticSource(SyntheticConfig(**(config | changes)))  # type: ignore[arg-type]


@given(st.integers(1, 300), st.floats(0, 3), st.floats(0, 0.1), st.floats(0.2, 1), st.floats(0, 1, exclude_min=True))
def test_probabilities_sum_to_the_wanted_l0_within_floor_and_ceiling(
    features: int, exponent: float, floor: float, ceiling: float, share: float
) -> None:
    l0 = features * (floor + share * (ceiling - floor))
    probability_G = firing_probabilities(features, l0, exponent, floor, ceiling)
    assert float(probability_G.double().sum()) == pytest.approx(l0, rel=1e-5)
    assert float(probability_G.min()) >= floor - 1e-6
    assert float(probability_G.max()) <= ceiling + 1e-6
    assert bool((probability_G.diff() <= 0).all())


def test_probabilities_follow_zipf_where_neither_bound_is_met() -> None:
    probability_G = firing_probabilities(4, 0.5, 1.0, 0.0, 1.0)
    assert torch.allclose(probability_G, torch.tensor([12, 6, 4, 3]) / 50)


def test_an_l0_that_no_probabilities_give_is_refused() -> None:
    with pytest.raises(InputError, match="from 1 to 50"):
        firing_probabilities(100, 60, 1.0, 0.01, 0.5)


def test_each_feature_fires_as_often_as_its_probability_says() -> None:
    source = small()
    fires_BG = source.sample(ROWS, 0).magnitude_BG > 0
    p_G = source.probability_G
    error_G = (fires_BG.float().mean(0) - p_G) / (p_G * (1 - p_G) / ROWS).sqrt()
    assert float(error_G.abs().max()) < 4.5
    assert float(fires_BG.sum(1).float().mean()) == pytest.approx(3.0, abs=0.1)


def test_pairs_fire_together_as_the_bivariate_normal_says() -> None:
    source = small()
    fires_BG = (source.sample(ROWS, 0).magnitude_BG > 0).double()
    together_GG = fires_BG.T @ fires_BG / ROWS
    latent_GG = (source.loadings_GR @ source.loadings_GR.T).double()
    quantile_G = torch.special.ndtri(source.probability_G.double())
    above = below = 0
    for i, j in itertools.combinations(range(12), 2):
        r = float(latent_GG[i, j])
        wanted = multivariate_normal(cov=[[1, r], [r, 1]]).cdf([float(quantile_G[i]), float(quantile_G[j])])
        assert float(together_GG[i, j]) == pytest.approx(wanted, abs=5 * (wanted / ROWS) ** 0.5 + 1e-4)
        independent = float(source.probability_G[i] * source.probability_G[j])
        above += wanted > 1.5 * independent
        below += wanted < 0.5 * independent
    assert above >= 5  # the correlations are of both signs, and far from nothing
    assert below >= 5


def test_without_factors_features_fire_independently() -> None:
    source = small(correlation_rank=0)
    fires_BG = (source.sample(ROWS, 0).magnitude_BG > 0).double()
    p_G = source.probability_G.double()
    variance = float((p_G * (1 - p_G)).sum())
    assert float(fires_BG.sum(1).var()) == pytest.approx(variance, rel=0.05)
    covariance_GG = fires_BG.T @ fires_BG / ROWS - p_G[:, None] * p_G
    covariance_GG.fill_diagonal_(0)
    assert float(covariance_GG.abs().max()) < 5 * 0.5 / ROWS**0.5


def test_rows_have_the_mean_and_covariance_of_the_closed_form() -> None:
    source = small(correlation_rank=0, noise=0.1, bias_norm=2.0)
    x_BD = source.sample(ROWS, 0).x_BD.double()
    d_GD, p_G = source.dictionary_GD.double(), source.probability_G.double()
    mean_D = p_G @ d_GD + source.bias_D
    covariance_DD = d_GD.T @ torch.diag(p_G * (1 + 0.2**2) - p_G**2) @ d_GD + 0.1**2 * torch.eye(8)
    assert torch.allclose(x_BD.mean(0), mean_D, atol=0.02)
    assert torch.allclose(x_BD.T.cov(), covariance_DD, atol=0.02)


def test_magnitudes_have_the_given_moments_and_are_positive() -> None:
    magnitude_BG = small().sample(ROWS, 0).magnitude_BG
    firing = magnitude_BG[magnitude_BG != 0]
    assert float(firing.mean()) == pytest.approx(1.0, abs=0.005)
    assert float(firing.std()) == pytest.approx(0.2, abs=0.005)
    assert float(small(magnitude_std=2.0).sample(ROWS, 0).magnitude_BG.min()) == 0
    wide = small(magnitude_std=2.0).sample(1000, 0).magnitude_BG
    assert float(wide[wide != 0].min()) == pytest.approx(0.05)


def test_directions_and_bias_have_their_norms() -> None:
    source = small(widths=[8, 4], bias_norm=3.0)
    for dictionary_GD in source.dictionary_GD.split([8, 4], dim=1):
        assert torch.allclose(dictionary_GD.norm(dim=1), torch.ones(24))
    for bias_D in source.bias_D.split([8, 4]):
        assert float(bias_D.norm()) == pytest.approx(3.0)


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    first = [x_BD for x_BD, _ in itertools.islice(small().batches(16, seed=5), 4)]
    later = next(small().batches(16, seed=5, start=3))[0]
    assert torch.equal(first[3], later)
    assert torch.equal(small().sample(16, 5, "batch 3").x_BD, later)
    assert not torch.equal(first[2], first[3])
    assert not torch.equal(next(small().batches(16, seed=6, start=3))[0], later)


def test_the_worlds_seed_decides_the_dictionary_and_the_rows_seed_does_not() -> None:
    assert torch.equal(small().dictionary_GD, small().dictionary_GD)
    assert not torch.equal(small(seed=1).dictionary_GD, small().dictionary_GD)
    a, b = small(seed=1).sample(16, 0), small().sample(16, 0)
    assert not torch.equal(a.x_BD, b.x_BD)


def test_an_autoencoders_target_is_its_input() -> None:
    source = small()
    x_BD, y_BD = next(source.batches(4, seed=0))
    assert x_BD is y_BD
    assert source.target_hook_points == source.hook_points == ["synthetic.0"]
    assert source.target_widths == source.widths == [8]


def test_hook_points_and_targets_share_the_features_that_fire() -> None:
    source = small(widths=[8, 6], target_widths=[10])
    magnitude_BG, x_BD, y_BD = source.sample(32, 0)
    assert source.hook_points == ["synthetic.0", "synthetic.1"]
    assert source.target_hook_points == ["target.0"]
    assert x_BD.shape == (32, 14)
    assert y_BD.shape == (32, 10)
    assert torch.allclose(x_BD, magnitude_BG @ source.dictionary_GD + source.bias_D, atol=1e-5)
    assert torch.allclose(y_BD, magnitude_BG @ source.target_dictionary_GD + source.target_bias_D, atol=1e-5)
    first, second = source.dictionary_GD[:, :6], source.dictionary_GD[:, 8:]
    assert not torch.allclose(first, second)


def test_every_field_of_the_config_changes_the_rows() -> None:
    base = small().sample(8, 0).y_BD
    changes: dict[str, object] = {
        "features": 25, "widths": [9], "target_widths": [8], "l0": 2.0, "zipf_exponent": 0.5, "min_probability": 0.05,
        "max_probability": 0.2, "correlation_rank": 2, "correlation": 0.1, "magnitude_std": 0.1, "bias_norm": 0.5,
        "noise": 0.1, "seed": 3,
    }  # fmt: skip
    assert set(changes) == set(SyntheticConfig.model_fields)
    for name, value in changes.items():
        rows = small(**{name: value}).sample(8, 0).y_BD
        assert rows.shape != base.shape or not torch.equal(rows, base), name
