"""`paced` brings L0 to its target: on simulated SAEs of very different manners, and on a real one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.architectures.gated import GatedSAE
from sae.config import parse_config
from sae.training.config import TrainConfig
from sae.training.l0_targeting import L0Controller, L0TargetingConfig
from sae.training.paced import Paced
from sae.training.schedule import Schedule, ScheduleConfig
from sae.training.trainer import Trainer
from sae.training.trim import FURTHEST


def simulate(
    target: float, right: float, start: float, *, steepness: float, lag: float, noise: float, steps: int, seed: int = 0
) -> tuple[float, np.ndarray]:
    """L0 at the end of a run, and the coefficients of all its steps, of a simulated SAE.

    Its L0 goes to target · (coefficient / right)^-steepness, between target / 8 and 400, with a lag of `lag` steps at the
    full learning rate, from an untrained L0 of 300; it is measured with relative noise.
    """
    schedule = Schedule(ScheduleConfig(), steps)
    steered = L0Controller(L0TargetingConfig(), target, start, schedule)
    random = np.random.default_rng(seed)
    l0, coefficients = math.log(300.0), np.empty(steps)
    lowest, highest = math.log(target / 8), math.log(400.0)
    for step in range(steps):
        goal = math.log(target) - steepness * math.log(steered.coefficient / right)
        l0 += schedule.factor(step) / lag * (min(highest, max(lowest, goal)) - l0)
        steered.update(math.exp(l0) * (1 + noise * random.standard_normal()), step)
        coefficients[step] = steered.coefficient
    return math.exp(l0), coefficients


@settings(deadline=None, max_examples=100)
@given(
    target=st.sampled_from([4.0, 16.0, 64.0]),
    right=st.floats(1e-4, 1),
    off=st.floats(-2, 2),
    steepness=st.floats(0.5, 1.5),
    lag=st.floats(0.02, 0.05),
    steps=st.integers(1500, 3000),
)
def test_l0_comes_to_the_target_from_a_hundred_times_too_small_or_large(
    target: float, right: float, off: float, steepness: float, lag: float, steps: int
) -> None:
    l0, coefficients = simulate(target, right, right * 10**off, steepness=steepness, lag=lag * steps, noise=0.02, steps=steps)
    # An L0 that answers weakly comes late. What is left, trimming bridges.
    assert l0 == pytest.approx(target, rel=0.04 if steepness >= 0.8 else FURTHEST)
    tail = np.log(coefficients[-round(0.15 * steps) :])
    line = np.polyval(np.polyfit(np.arange(len(tail)), tail, 1), np.arange(len(tail)))
    assert np.std(tail - line) < 0.03


def test_a_run_ten_times_as_long_is_steered_ten_times_as_slowly() -> None:
    short, long = (
        np.log(simulate(16, 0.03, 0.03, steepness=1, lag=0.03 * steps, noise=0, steps=steps)[1]) for steps in (2000, 20_000)
    )
    apart = np.abs(short[1200:] - long[12_000::10])
    assert apart.max() < 0.3  # the search for the order of magnitude takes a few steps, however long the run is
    assert apart[400:].max() < 0.03


def test_nothing_climbs_while_l0_is_below_the_target_at_the_start() -> None:
    paced = Paced(Schedule(ScheduleConfig(), 1000))
    assert {paced.step(5.0, 16, step) for step in range(800)} == {0.0}  # a JumpReLU SAE's L0 still rises by itself
    assert paced.step(5.0, 16, 801) < 0  # it has not come


def test_a_trained_sae_goes_on_from_the_start_itself() -> None:
    config = L0TargetingConfig(begin_below=1)
    steered = L0Controller(config, 16, 0.03, Schedule(ScheduleConfig(warmup=0), 1000))
    for step in range(100):
        steered.update(16.5, step)
    assert 0.03 < steered.coefficient < 0.05


class Pool:
    """The synthetic source's first batches, over and over."""

    def __init__(self, source: SyntheticSource, batch_size: int, count: int) -> None:
        self.hook_points, self.widths = source.hook_points, source.widths
        self.target_hook_points, self.target_widths = source.target_hook_points, source.target_widths
        self.kept = [x_BD for x_BD, _ in itertools.islice(source.batches(batch_size, seed=0), count)]

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number in itertools.count(start):
            x_BD = self.kept[number % len(self.kept)]
            yield x_BD, x_BD


def test_l0_of_a_trained_sae_on_fresh_rows_is_within_two_percent() -> None:
    torch.set_num_threads(1)
    source = SyntheticSource(SyntheticConfig(features=64, widths=[24], l0=4))
    targeting = {"start": 5.0}  # a hundred times too large
    train = {"steps": 1500, "batch_size": 256, "lr": 3e-3, "l0_target": 8, "l0_targeting": targeting, "held_out_rows": 0}
    trainer = Trainer(GatedSAE(d_in=24, d_sae=96), Pool(source, 256, 200), parse_config(TrainConfig, train | {"log_every": 1500}))
    figures = trainer.train()
    assert figures["l0"] == pytest.approx(8, rel=0.1)  # steered
    assert trainer.measure(source, 40_000, seed=1)["l0"] == pytest.approx(8, rel=0.02)  # trimmed
