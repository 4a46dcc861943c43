"""The L0 controller, against its closed form."""

from __future__ import annotations

import pytest

from sae.training.l0_targeting import L0Controller, L0TargetingConfig


def controller(target: float | None = 50, steps: int = 50_000, **config: object) -> L0Controller:
    return L0Controller(L0TargetingConfig(**config), target, 1.0e-3, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(("l0", "direction"), [(51.0, 1), (50.0, 1), (49.999, -1), (0.0, -1), (5000.0, 1)])
def test_coefficient_rises_while_l0_is_at_or_above_target_and_falls_below(l0: float, direction: int) -> None:
    steered = controller(adjustment=1e-3, warmup=0)
    steered.update(l0, step=0)
    assert steered.coefficient == pytest.approx(1e-3 * 2 ** (direction * 1e-3), rel=1e-12)


def test_coefficient_doubles_in_the_inverse_of_the_adjustment() -> None:
    steered = controller(adjustment=1e-3, warmup=0)
    for step in range(1000):
        steered.update(60, step)
    assert steered.coefficient == pytest.approx(2e-3, rel=1e-9)


def test_adjustment_grows_linearly_through_the_warmup() -> None:
    steered, log2 = controller(adjustment=1e-2, warmup=10, steps=100), 0.0
    for step in range(20):
        before = steered.coefficient
        steered.update(60, step)
        assert steered.coefficient == pytest.approx(before * 2 ** (1e-2 * min(1, step / 10)), rel=1e-12)
        log2 += 1e-2 * min(1, step / 10)
    assert steered.coefficient == pytest.approx(1e-3 * 2**log2, rel=1e-9)


def test_warmup_may_be_a_share_of_the_run() -> None:
    # saeco's reference: 0.15 of 50 000 steps.
    steered = controller(adjustment=1e-3, warmup=0.15)
    steered.update(60, step=3750)
    assert steered.coefficient == pytest.approx(1e-3 * 2 ** (1e-3 / 2), rel=1e-12)


@pytest.mark.parametrize("off", [controller(target=None, warmup=0), controller(controller="none", warmup=0)])
def test_without_target_or_controller_the_coefficient_stays(off: L0Controller) -> None:
    off.update(1000, step=10)
    assert off.coefficient == 1e-3


def test_saved_state_is_all_that_it_needs() -> None:
    one, other = controller(warmup=5), controller(warmup=5)
    for step in range(7):
        one.update(60, step)
    other.restore(one.state())
    for step in range(7, 12):
        one.update(40, step)
        other.update(40, step)
    assert one.coefficient == other.coefficient


def test_a_coefficient_that_nobody_gave_is_the_start_if_steered_and_else_1() -> None:
    config = L0TargetingConfig(start=0.25)
    assert L0Controller(config, 8, None, 100).coefficient == 0.25
    assert L0Controller(config, 8, 0.5, 100).coefficient == 0.5
    assert L0Controller(config, None, None, 100).coefficient == 1.0
    assert L0Controller(L0TargetingConfig(start=0.25, controller="none"), 8, None, 100).coefficient == 1.0
