"""Ending a run early: bounds at their steps, and patience."""

from __future__ import annotations

import json

import pytest

from sae.config import InputError, parse_config
from sae.training.early_stopping import EarlyStopping, EarlyStoppingConfig


def stopping(**config: object) -> EarlyStopping:
    return EarlyStopping(parse_config(EarlyStoppingConfig, config, "train.early_stopping"))


@pytest.mark.parametrize(("kind", "good", "bad"), [("min", 5.0, 4.9), ("max", 5.0, 5.1)])
def test_bound_is_tried_at_its_step_alone(kind: str, good: float, bad: float) -> None:
    for step, l0, ends in ((50, bad, False), (100, good, False), (100, bad, True), (150, bad, False)):
        watch = stopping(**{kind: {"l0": {100: 5.0}}})
        for before in range(25, step, 25):
            watch.update(before, {"l0": good})
        watch.update(step, {"l0": l0})
        assert (watch.reason is not None) == ends, (step, l0)
    assert watch.reason is None


def test_bound_between_two_points_is_tried_at_the_next() -> None:
    watch = stopping(max={"fvu": {60: 0.5}})
    watch.update(50, {"fvu": 0.9})
    assert watch.reason is None
    watch.update(75, {"fvu": 0.9})
    assert watch.reason == "fvu is 0.9 at step 75, and its bound is max 0.5"


def test_several_bounds_of_one_figure() -> None:
    watch = stopping(max={"fvu": {10: 0.9, 20: 0.5}})
    watch.update(10, {"fvu": 0.6})
    assert watch.reason is None
    watch.update(20, {"fvu": 0.6})
    assert watch.reason is not None


def test_patience_counts_points_without_a_new_best() -> None:
    watch = stopping(patience=3)
    for step, value in enumerate([0.9, 0.5, 0.6, 0.5, 0.4, 0.4, 0.45], 1):
        watch.update(step, {"held_out_fvu": value})
        assert watch.reason is None
    watch.update(8, {"held_out_fvu": 0.41})
    assert watch.reason == "held_out_fvu has not gone below 0.4 for 3 points, up to step 8"
    watch.go_on()
    assert (watch.reason, watch.waited, watch.best) == (None, 0, 0.4)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"max": {"held_out_fv": {1: 0.5}}}, r"train\.early_stopping\.max: .*did you mean 'held_out_fvu'"),
        ({"min": {"held_out_fv": {1: 0.5}}}, r"train\.early_stopping\.min: .*expected loss, held_out_fvu"),
        ({"patience": 2, "figure": "los"}, r"train\.early_stopping\.figure: .*found los.*did you mean 'loss'"),
    ],
)
def test_figure_that_is_none_is_refused_by_field(config: dict[str, object], where: str) -> None:
    with pytest.raises(InputError, match=where):
        stopping(**config).update(1, {"loss": 1.0, "held_out_fvu": 0.3})


@pytest.mark.parametrize("config", [{"max": {"fvu": {0: 0.5}}}, {"patience": 0}, {"max": {"fvu": {"soon": 1.0}}}])
def test_bounds_before_the_first_step_and_no_patience_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"train\.early_stopping\."):
        stopping(**config)


def test_state_is_all_that_it_needs() -> None:
    config = {"patience": 3, "max": {"held_out_fvu": {7: 0.1}}}
    one, other = stopping(**config), stopping(**config)
    for step in range(1, 5):
        one.update(step, {"held_out_fvu": 0.2 + step / 100})
        if step == 2:
            other.restore(json.loads(json.dumps(one.state())))
    for step in (3, 4):
        other.update(step, {"held_out_fvu": 0.2 + step / 100})
    assert other.state() == one.state()
    assert one.reason is not None
