"""The learning rate over a run, against its closed form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.config import InputError, parse_config
from sae.training.schedule import Schedule, ScheduleConfig, in_steps

# saeco's reference run: 50 000 steps, 2 000 of warmup, a fifth of cooldown, factor 0.1 at both ends.
REFERENCE = Schedule(ScheduleConfig(warmup=2000, cooldown=0.2), 50_000)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (1000, 0.1**0.5), (2000, 1.0), (30_000, 1.0), (40_000, 1.0), (45_000, 0.1**0.5), (50_000, 0.1)],
)
def test_reference_run(step: int, factor: float) -> None:
    assert REFERENCE.factor(step) == pytest.approx(factor, rel=1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(81, 200), st.integers(0, 200))
def test_factor_is_low_to_the_power_of_what_is_left(
    warmup: int, cooldown: int, start: float, end: float, steps: int, step: int
) -> None:
    schedule = Schedule(ScheduleConfig(warmup=warmup, cooldown=cooldown, warmup_from=start, cooldown_to=end), steps)
    rise = min(1.0, step / warmup) if warmup else 1.0
    fall = min(1.0, max(0, steps - step) / cooldown) if cooldown else 1.0
    expected = start ** (1 - rise) if rise < 1 else end ** (1 - fall)
    assert schedule.factor(step) == pytest.approx(expected, rel=1e-12)


def test_factor_rises_stays_and_falls() -> None:
    schedule = Schedule(ScheduleConfig(warmup=10, cooldown=20), 100)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert set(factors[10:81]) == {1.0}
    assert factors[80:] == sorted(factors[80:], reverse=True)
    assert len(set(factors[:11])) == 11


def test_without_warmup_and_cooldown_the_factor_is_one_throughout() -> None:
    schedule = Schedule(ScheduleConfig(warmup=0, cooldown=0), 10)
    assert {schedule.factor(step) for step in range(11)} == {1.0}


def test_whole_numbers_are_steps_and_numbers_with_a_point_are_shares() -> None:
    config = parse_config(ScheduleConfig, {"warmup": 1, "cooldown": 1.0})
    assert (in_steps(config.warmup, 500), in_steps(config.cooldown, 500)) == (1, 500)
    assert in_steps(0.25, 1000) == 250


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"cooldown": 1.5}, {"warmup_from": 0}, {"cooldown_to": 1.1}])
def test_lengths_and_factors_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"train\.schedule\.{next(iter(wrong))}: "):
        parse_config(ScheduleConfig, wrong, "train.schedule")


def test_warmup_and_cooldown_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"train\.schedule: .*found 60 \+ 50 steps.*train\.steps = 100"):
        Schedule(ScheduleConfig(warmup=60, cooldown=0.5), 100)
    assert Schedule(ScheduleConfig(warmup=50, cooldown=0.5), 100).factor(50) == 1.0
