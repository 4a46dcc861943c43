"""The L0 controller: what it measures, when it moves, what it saves, against closed forms."""

from __future__ import annotations

import json
import math

import pytest

from sae.config import InputError, parse_config
from sae.training.l0_targeting import L0Average, L0Controller, L0TargetingConfig
from sae.training.schedule import Schedule, ScheduleConfig, resample_steps

# saeco's reference run; see test_schedule.py.
REFERENCE = Schedule(
    ScheduleConfig(warmup=2000, cooldown=0.2, resample_warmup=0.2), 50_000, resample_steps(50_000, every=10_000, finish=0.3)
)
SAECO = {"controller": "basic", "adjustment": 1e-3, "average": 1, "warmup": 0.15}


def controller(target: float | None = 50, schedule: Schedule = REFERENCE, **config: object) -> L0Controller:
    return L0Controller(parse_config(L0TargetingConfig, SAECO | config), target, 1.0e-3, schedule)


def test_coefficient_doubles_in_the_inverse_of_the_adjustment() -> None:
    steered = controller(warmup=0)
    steered.update(60, 0)
    assert steered.coefficient == pytest.approx(1e-3 * 2**1e-3, rel=1e-12)
    assert pytest.approx(1.000693, abs=1e-6) == 2**1e-3
    for step in range(1, 1000):
        steered.update(60, step)
    assert steered.coefficient == pytest.approx(2e-3, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "scale"),
    [
        (0, 0),
        (3750, 0.5),  # t / 7500
        (7500, 1),
        (9999, 1),
        (10_000, 0),  # paused for 2000 steps, then a ramp over 2000
        (11_999, 0),
        (12_000, 0),
        (13_000, 0.5),
        (14_000, 1),
        (19_999, 1),
        (33_000, 0.5),
        (49_999, 1),
    ],
)
def test_scale_of_the_reference_run(step: int, scale: float) -> None:
    steered = controller()
    assert steered.scale(step) == pytest.approx(scale, abs=1e-12)
    steered.update(60, step)
    assert steered.coefficient == pytest.approx(1e-3 * 2 ** (1e-3 * scale), rel=1e-12)


def test_lengths_of_nothing_divide_by_nothing() -> None:
    steered = controller(warmup=0, hiatus=0, resample_warmup=0)
    assert {steered.scale(step) for step in (0, 1, 10_000, 10_001, 49_999)} == {1.0}
    assert {
        controller(pre_deflation=0.5, schedule=Schedule(ScheduleConfig(cooldown=0), 10)).target_factor(t) for t in (0, 9)
    } == {1.0}
    paused = controller(warmup=0, resample_warmup=0)
    assert [paused.scale(step) for step in (11_999, 12_000)] == [0.0, 1.0]


def test_nothing_moves_before_the_delay_is_over() -> None:
    steered = controller(warmup=0, delay=0.1)
    assert [steered.scale(step) for step in (0, 4999, 5000)] == [0.0, 0.0, 1.0]


def test_deflated_target_comes_back_through_the_cooldown() -> None:
    schedule = Schedule(ScheduleConfig(warmup=0, cooldown=0.2, end_plateau=0.1), 1000)
    steered = controller(pre_deflation=0.4, schedule=schedule)
    factors = [steered.target_factor(step) for step in (0, 700, 800, 900, 999)]
    assert factors == pytest.approx([0.6, 0.6, 0.8, 1.0, 1.0], rel=1e-12)
    deflated = controller(target=50, pre_deflation=0.4, schedule=schedule, warmup=0)
    deflated.update(35, 0)  # below the target, above the deflated one
    assert deflated.coefficient > 1e-3


def test_average_is_unbiased_from_its_first_value_on_and_forgets() -> None:
    average, values = L0Average(4), [8.0, 4.0, 6.0]
    assert average.update(values[0]) == 8.0
    average.update(values[1])
    weights = [0.75**2, 0.75, 1]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert average.update(values[2]) == pytest.approx(expected, rel=1e-12)
    average.reset()
    assert average.update(3.0) == 3.0
    alone = L0Average(1)
    assert [alone.update(value) for value in values] == values


def test_what_was_measured_before_a_resampling_is_forgotten() -> None:
    schedule = Schedule(ScheduleConfig(), 100, [50])
    steered = controller(average=10, warmup=0, hiatus=5, resample_warmup=0, schedule=schedule)
    for step in range(50):
        steered.update(1000, step)
    before = steered.coefficient
    for step in range(50, 55):
        steered.update(10, step)
        assert steered.coefficient == before
    steered.update(10, 55)
    assert steered.coefficient < before


@pytest.mark.parametrize("name", ["basic", "gentle_basic", "pid", "paced"])
def test_coefficient_stays_in_its_range_where_the_target_is_out_of_reach(name: str) -> None:
    schedule = Schedule(ScheduleConfig(warmup=0, cooldown=0), 4000)
    for l0 in (0.0, 1e6):
        steered = controller(controller=name, adjustment=0.1, warmup=0, range=100, begin_below=10, schedule=schedule)
        for step in range(4000):
            steered.update(l0, step)
        assert steered.coefficient == pytest.approx(1e-3 * (100 if l0 else 0.01), rel=1e-9)
        if name == "pid":
            continue  # its slow averages are saeco's
        for step in range(3000, 3400):  # nothing has wound up: it turns at once
            steered.update(200 if not l0 else 20, step)
        assert (steered.coefficient > 1e-5 * 1.01) if not l0 else (steered.coefficient < 0.1 * 0.99)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_l0_that_is_not_finite_changes_nothing(wrong: float) -> None:
    steered = controller(warmup=0)
    before = steered.state()
    steered.update(wrong, 3)
    assert steered.state() == before


@pytest.mark.parametrize("off", [{"target": None}, {"controller": "none"}])
def test_without_target_or_controller_the_coefficient_stays(off: dict[str, object]) -> None:
    steered = controller(**(SAECO | {"warmup": 0} | off))  # type: ignore[arg-type]
    steered.update(1000, step=10)
    assert steered.coefficient == 1e-3


@pytest.mark.parametrize("name", ["basic", "gentle_basic", "pid", "paced"])
def test_saved_state_is_all_that_it_needs(name: str) -> None:
    schedule = Schedule(ScheduleConfig(), 400, [120])
    make = {"controller": name, "average": 5, "schedule": schedule, "hiatus": 10, "resample_warmup": 10}
    l0s = [200 * 0.97**step + 45 + 3 * math.sin(step) for step in range(400)]
    for cut in (0, 1, 30, 121, 135, 260):
        one, other = controller(**make), controller(**make)  # type: ignore[arg-type]
        for step in range(cut):
            one.update(l0s[step], step)
        other.restore(json.loads(json.dumps(one.state())))
        for step in range(cut, 400):
            one.update(l0s[step], step)
            other.update(l0s[step], step)
        assert one.state() == other.state()


def test_a_coefficient_that_nobody_gave_is_the_start_if_steered_and_else_1() -> None:
    config = L0TargetingConfig(start=0.25, controller="basic")
    assert L0Controller(config, 8, None, REFERENCE).coefficient == 0.25
    assert L0Controller(config, 8, 0.5, REFERENCE).coefficient == 0.5
    assert L0Controller(config, None, None, REFERENCE).coefficient == 1.0
    assert L0Controller(L0TargetingConfig(start=0.25, controller="none"), 8, None, REFERENCE).coefficient == 1.0
    assert L0Controller(L0TargetingConfig(start=0.25, begin_below=50), 8, None, REFERENCE).coefficient == 0.005


@pytest.mark.parametrize("wrong", [{"controller": "pi"}, {"average": 0}, {"pre_deflation": 1}, {"range": 1}, {"start": 0}])
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        parse_config(L0TargetingConfig, wrong, "train.l0_targeting")
