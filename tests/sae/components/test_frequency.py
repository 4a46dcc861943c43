"""Firing frequencies, against the closed form of the moving average."""

from __future__ import annotations

import pytest
import torch

from sae.codes import as_codes
from sae.components import EMAFreqTracker


def batch(*fires: bool, tokens: int = 4) -> object:
    """Codes in which latent f is active on every token or on none."""
    return as_codes(torch.tensor([[float(f) for f in fires]]).expand(tokens, -1).clone())


def test_silent_latent_falls_below_3e_6_after_120_steps_and_not_before() -> None:
    tracker = EMAFreqTracker(beta=0.99, initial=1e-5)
    seen = []
    for _ in range(121):
        tracker(batch(False))
        seen.append(float(tracker.frequency[0]))
    assert seen[119] == pytest.approx(1e-5 * 0.99**120, rel=1e-4)  # 2.994e-6
    assert seen[119] < 3e-6 < seen[118]


def test_frequency_is_the_moving_average_of_the_share_of_tokens() -> None:
    tracker, expected = EMAFreqTracker(beta=0.9, initial=0.5), 0.5
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        values_BF = (torch.rand(8, 3, generator=generator) - 0.5).relu()
        tracker(as_codes(values_BF))
        expected = 0.9 * expected + 0.1 * (values_BF != 0).double().mean(0)
    torch.testing.assert_close(tracker.frequency.double(), expected, rtol=1e-5, atol=1e-7)


def test_tokens_since_fired_counts_tokens_and_begins_again_at_each_firing() -> None:
    tracker = EMAFreqTracker()
    tracker(batch(True, False, tokens=4))
    tracker(batch(False, False, tokens=10))
    assert tracker.tokens_since_fired.tolist() == [10, 14]
    tracker(batch(False, True, tokens=6))
    assert tracker.tokens_since_fired.tolist() == [16, 0]


def test_latent_is_dead_once_it_was_silent_for_the_whole_window() -> None:
    tracker = EMAFreqTracker()
    tracker(batch(True, False, tokens=10))
    assert tracker.dead(10).tolist() == [False, True]
    assert tracker.dead(11).tolist() == [False, False]


def test_nothing_is_tracked_in_evaluation() -> None:
    tracker = EMAFreqTracker()
    tracker.allocate(2)
    tracker.eval()
    tracker(batch(True, False))
    assert tracker.frequency.tolist() == pytest.approx([1e-5, 1e-5])
    assert tracker.tokens_since_fired.tolist() == [0, 0]


def test_codes_pass_through_untouched() -> None:
    codes = batch(True, False)
    assert EMAFreqTracker()(codes) is codes


def test_tracked_figures_are_no_part_of_a_saved_model() -> None:
    tracker = EMAFreqTracker()
    tracker.allocate(2)
    assert tracker.state_dict() == {}
    assert {name for name, _ in tracker.named_buffers()} == {"frequency", "tokens_since_fired"}


def test_resampled_latents_begin_anew() -> None:
    tracker = EMAFreqTracker(initial=0.5)
    tracker(as_codes(torch.tensor([[1.0, 0.0, 1.0, 0.0]])))
    before = tracker.frequency.clone()
    tracker.forget(torch.tensor([True, True, False, False]))
    assert tracker.frequency.tolist() == [0.5, 0.5, *before[2:].tolist()]
    assert tracker.tokens_since_fired.tolist() == [0, 0, 0, 1]
