"""The learning rate over a run, and when dead latents are resampled, against closed forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.config import InputError, parse_config
from sae.training.schedule import Schedule, ScheduleConfig, in_steps, resample_steps

# saeco's reference run: 50 000 steps, 2 000 of warmup, a fifth of cooldown, factor 0.1 everywhere, resampling every 10 000
# steps (after which the learning rate takes 2 000 to come back) but not in the last 30 %. Its t is our step.
RESAMPLINGS = resample_steps(50_000, every=10_000, finish=0.3)
REFERENCE = Schedule(ScheduleConfig(warmup=2000, cooldown=0.2, resample_warmup=0.2), 50_000, RESAMPLINGS)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),
        (1000, 0.1**0.5),
        (2000, 1.0),
        (9_999, 1.0),
        (10_000, 0.1),
        (11_000, 0.1**0.5),
        (12_000, 1.0),
        (30_000, 0.1),
        (40_000, 1.0),
        (45_000, 0.1**0.5),
        (50_000, 0.1),
    ],
)
def test_reference_run(step: int, factor: float) -> None:
    assert REFERENCE.factor(step) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": 50_000, "every": 10_000}, [10_000, 20_000, 30_000]),
        ({"steps": 50_000, "every": 12_500}, [12_500, 25_000]),  # saeco's defaults
        ({"steps": 50_000, "every": 10_000, "delay": 1000, "finish": 0}, [1000, 11_000, 21_000, 31_000, 41_000]),
        ({"steps": 100, "every": 25, "finish": 25}, [25, 50, 75]),  # the last before the finish counts
        ({"steps": 100, "every": 25, "finish": 0}, [25, 50, 75]),  # none at the end, where nothing follows
        ({"steps": 100, "every": 25, "delay": 0.1}, [10, 35, 60]),
        ({"steps": 100, "every": 200}, []),
    ],
)
def test_resamplings_come_with_their_period_between_delay_and_finish(arguments: dict[str, float], expected: list[int]) -> None:
    assert resample_steps(**arguments) == expected  # type: ignore[arg-type]


lengths = st.integers(0, 30)
lows = st.floats(0.01, 1)


@given(lengths, lengths, lengths, lows, lows, st.sampled_from(["geometric", "linear"]), st.integers(91, 200), st.integers(0, 200))
def test_factor_over_the_run_is_its_closed_form(
    warmup: int, cooldown: int, plateau: int, start: float, end: float, interpolation: str, steps: int, step: int
) -> None:
    config = {"warmup": warmup, "cooldown": cooldown, "end_plateau": plateau, "warmup_from": start, "cooldown_to": end}
    schedule = Schedule(parse_config(ScheduleConfig, config | {"interpolation": interpolation}), steps)
    rise = min(1.0, step / warmup) if warmup else 1.0
    left = max(0, steps - plateau - step)
    fall = min(1.0, left / cooldown) if cooldown else float(left > 0 or not plateau)
    low, s = (start, rise) if rise < 1 else (end, fall)
    expected = low ** (1 - s) if interpolation == "geometric" else max(s, low)
    assert schedule.factor(step) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.integers(1, 99), unique=True, max_size=5), st.integers(0, 30), lows, st.integers(0, 100))
def test_learning_rate_rises_anew_after_each_resampling(after: list[int], rise: int, low: float, step: int) -> None:
    config = ScheduleConfig(warmup=0, cooldown=0, resample_warmup=rise, resample_from=low)
    schedule = Schedule(config, 100, after)
    past = [step - number for number in after if number <= step]
    s = min(1.0, min(past) / rise) if past and rise else 1.0
    assert schedule.since_resampling(step) == (min(past) if past else None)
    assert schedule.factor(step) == schedule.resample_factor(step) == pytest.approx(low ** (1 - s), rel=1e-12)


def test_factors_after_a_resampling_and_over_the_run_multiply() -> None:
    schedule = Schedule(ScheduleConfig(warmup=20, cooldown=0, resample_warmup=10), 100, [10])
    assert schedule.factor(15) == pytest.approx(0.1**0.25 * 0.1**0.5, rel=1e-12)


def test_end_plateau_stays_at_the_low_factor() -> None:
    schedule = Schedule(ScheduleConfig(warmup=10, cooldown=20, end_plateau=0.3, cooldown_to=0.25), 100)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:11] == sorted(set(factors[:11]))
    assert set(factors[10:51]) == {1.0}
    assert factors[50:71] == sorted(set(factors[50:71]), reverse=True)
    assert set(factors[70:]) == {0.25}
    sudden = Schedule(ScheduleConfig(warmup=0, cooldown=0, end_plateau=30, cooldown_to=0.25), 100)
    assert [sudden.factor(step) for step in (69, 70, 99)] == [1.0, 0.25, 0.25]


def test_without_lengths_the_factor_is_one_throughout() -> None:
    schedule = Schedule(ScheduleConfig(warmup=0, cooldown=0, resample_warmup=0), 10, [5])
    assert {schedule.factor(step) for step in range(11)} == {1.0}


def test_shares_after_a_resampling_are_of_the_period_and_others_of_the_run() -> None:
    config = parse_config(ScheduleConfig, {"warmup": 1, "cooldown": 1.0, "resample_warmup": 0.5})
    assert (in_steps(config.warmup, 500), in_steps(config.cooldown, 500)) == (1, 500)
    assert Schedule(ScheduleConfig(resample_warmup=0.5), 1000, [100, 300, 500]).resample_warmup == 100
    assert Schedule(ScheduleConfig(resample_warmup=0.5), 1000, [100]).resample_warmup == 50
    assert Schedule(ScheduleConfig(resample_warmup=0.5), 1000, [100], period=400).resample_warmup == 200


@pytest.mark.parametrize(
    "wrong", [{"warmup": -1}, {"cooldown": 1.5}, {"warmup_from": 0}, {"resample_from": 1.1}, {"interpolation": "cubic"}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"train\.schedule\.{next(iter(wrong))}: "):
        parse_config(ScheduleConfig, wrong, "train.schedule")


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"train\.schedule: .*found '?60 \+ 30 \+ 20 steps.*train\.steps = 100"):
        Schedule(ScheduleConfig(warmup=60, cooldown=0.3, end_plateau=0.2), 100)
    assert Schedule(ScheduleConfig(warmup=50, cooldown=0.5), 100).factor(50) == 1.0
