import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.codes import DenseCodes, SparseCodes
from sae.evaluation.recovery import Recovery, match_features, mean_correlation, uniqueness

seeds = st.integers(0, 10_000)


def directions(rows: int, seed: int, width: int = 6) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def recovery(true_GD: Tensor, decoder_FD: Tensor, codes_BF: Tensor, magnitude_BG: Tensor) -> Recovery:
    counted = Recovery(true_GD, decoder_FD, torch.zeros(true_GD.shape[1]))
    counted.update(DenseCodes(codes_BF), magnitude_BG, magnitude_BG @ true_GD, codes_BF @ decoder_FD)
    return counted


def test_matching_is_the_best_of_all_permutations() -> None:
    true_GD, decoder_FD = directions(5, 0), directions(5, 1)
    cosine_GF = torch.nn.functional.cosine_similarity(true_GD[:, None], decoder_FD[None], dim=-1).abs()
    best = max(float(sum(cosine_GF[g, f] for g, f in enumerate(permutation))) for permutation in itertools.permutations(range(5)))
    assert float(match_features(true_GD, decoder_FD).cosine_M.sum()) == pytest.approx(best)
    assert mean_correlation(true_GD, decoder_FD) == pytest.approx(best / 5)


def test_a_perfect_pair_is_given_up_for_a_better_whole() -> None:
    true_GD = torch.tensor([[1.0, 0.0], [0.9, -0.436]])
    decoder_FD = torch.tensor([[1.0, 0.0], [0.9, 0.436]])
    assert match_features(true_GD, decoder_FD).latent_M.tolist() == [1, 0]  # 0.9 + 0.9, not 1.0 + 0.62


@given(seeds, st.permutations(range(6)), st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
def test_order_sign_and_scale_of_latents_do_not_matter(seed: int, order: list[int], scales: list[float]) -> None:
    true_GD, decoder_FD = directions(6, seed), directions(6, seed + 1)
    changed_FD = torch.tensor(scales)[:, None] * decoder_FD[order]
    changed_FD[0] *= -1
    assert mean_correlation(true_GD, changed_FD) == pytest.approx(mean_correlation(true_GD, decoder_FD))
    assert uniqueness(true_GD, changed_FD) == uniqueness(true_GD, decoder_FD)


@given(seeds, st.permutations(range(6)))
def test_the_dictionary_itself_is_found_whole(seed: int, order: list[int]) -> None:
    true_GD = directions(6, seed)
    assert mean_correlation(true_GD, true_GD[order]) == pytest.approx(1)
    assert uniqueness(true_GD, true_GD[order]) == 1
    assert match_features(true_GD, true_GD[order]).latent_M.tolist() == [order.index(g) for g in range(6)]


def test_a_feature_without_a_latent_counts_nothing_and_a_spare_latent_takes_nothing_away() -> None:
    true_GD = torch.eye(4)
    assert mean_correlation(true_GD, true_GD[:3]) == pytest.approx(0.75)
    assert mean_correlation(true_GD, torch.cat([true_GD, torch.ones(2, 4)])) == pytest.approx(1)


def test_a_dead_decoder_row_matches_nothing() -> None:
    assert mean_correlation(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.5)


def test_two_latents_on_one_feature_are_not_unique() -> None:
    true_GD = torch.eye(3)
    decoder_FD = torch.tensor([[1.0, 0.1, 0.0], [1.0, 0.0, 0.1], [0.0, 0.0, 1.0]])
    assert uniqueness(true_GD, decoder_FD) == pytest.approx(2 / 3)


def test_f1_of_hand_made_codes() -> None:
    true_GD = torch.eye(3)
    magnitude_BG = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]])
    codes_BF = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 5]])
    # Feature 0: one hit, one miss: 2/(1+2). Feature 1: two hits, one miss: 4/(2+3). Feature 2 never fires: left out.
    counted = recovery(true_GD, true_GD, codes_BF, magnitude_BG)
    f1_G = counted.f1_G()
    assert f1_G[:2].tolist() == pytest.approx([2 / 3, 4 / 5])
    assert bool(f1_G[2].isnan())
    figures = counted.figures()
    assert figures["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert figures["l0"] == 1
    assert figures["true_l0"] == pytest.approx(5 / 4)
    assert figures["dead"] == 0
    assert figures["mcc"] == pytest.approx(1)


def test_a_feature_whose_latent_is_silent_or_missing_has_an_f1_of_nothing() -> None:
    true_GD, magnitude_BG = torch.eye(2), torch.ones(3, 2)
    silent = recovery(true_GD, true_GD, torch.tensor([[1.0, 0]]).expand(3, 2), magnitude_BG)
    assert silent.f1_G().tolist() == [1, 0]
    assert silent.figures()["dead"] == 1
    missing = recovery(true_GD, true_GD[:1], torch.ones(3, 1), magnitude_BG)
    assert missing.f1_G().tolist() == [1, 0]


@given(seeds, st.permutations(range(5)))
def test_order_of_latents_and_scale_of_codes_do_not_matter_to_f1(seed: int, order: list[int]) -> None:
    true_GD, decoder_FD = directions(5, seed), directions(5, seed + 1)
    codes_BF, magnitude_BG = directions(20, seed + 2, 5).relu(), directions(20, seed + 3, 5).relu()
    before = recovery(true_GD, decoder_FD, codes_BF, magnitude_BG).figures()
    after = recovery(true_GD, decoder_FD[order] / 3, 3 * codes_BF[:, order], magnitude_BG).figures()
    assert after == pytest.approx(before)


def test_batches_and_sparse_codes_count_the_same() -> None:
    true_GD, decoder_FD = directions(5, 0), directions(5, 1)
    codes_BF, magnitude_BG = directions(20, 2, 5).relu(), directions(20, 3, 5).relu()
    whole = recovery(true_GD, decoder_FD, codes_BF, magnitude_BG).figures()
    counted = Recovery(true_GD, decoder_FD, torch.zeros(6))
    for some_BF, some_BG in zip(codes_BF.split(7), magnitude_BG.split(7), strict=True):
        sparse = SparseCodes.from_rows(*some_BF.topk(5), 5)
        counted.update(sparse, some_BG, some_BG @ true_GD, some_BF @ decoder_FD)
    assert counted.figures() == pytest.approx(whole)


def test_the_truth_as_an_sae_is_perfect() -> None:
    source = SyntheticSource(SyntheticConfig(features=24, widths=[8], l0=3.0, min_probability=0.02))
    magnitude_BG, x_BD, _ = source.sample(2000, 0)
    counted = Recovery(source.target_dictionary_GD, source.target_dictionary_GD, source.target_bias_D)
    counted.update(DenseCodes(magnitude_BG), magnitude_BG, x_BD, magnitude_BG @ source.dictionary_GD + source.bias_D)
    figures = counted.figures()
    assert figures["mcc"] == pytest.approx(1)
    assert figures["f1"] == figures["uniqueness"] == 1
    assert figures["fvu"] == pytest.approx(0, abs=1e-10)
    assert figures["l0"] == figures["true_l0"]
