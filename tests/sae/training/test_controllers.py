"""saeco's controllers, against their closed forms and an independent float64 reference."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.training.controllers import Basic, GentleBasic, Pid


@pytest.mark.parametrize(("l0", "move"), [(51.0, 1), (50.0, 1), (49.999, -1), (0.0, -1), (5000.0, 1)])
def test_basic_is_the_sign_and_a_tie_counts_as_too_high(l0: float, move: int) -> None:
    assert Basic().step(l0, 50, 0) == move


@pytest.mark.parametrize(
    ("l0", "move"),
    [(50, 1 / 7), (51, 4 / 7), (52, 1), (53, 1), (5000, 1), (49, -4 / 7), (48, -1), (0, -1), (50.5, 2.5 / 7), (49.9, -1.3 / 7)],
)
def test_gentle_basic_at_target_50(l0: float, move: float) -> None:
    assert GentleBasic().step(l0, 50, 0) == pytest.approx(move, rel=1e-12)


def reference_pid(l0s: np.ndarray, target: float) -> np.ndarray:
    """The same, written out as recursive filters over the whole sequence."""

    def average(x: np.ndarray, rate: float) -> np.ndarray:
        powers = (1 - rate) ** np.arange(len(x))
        return np.array([rate * np.dot(powers[: t + 1], x[t::-1]) for t in range(len(x))])

    e = target * np.log(np.maximum(l0s, 1e-3) / target)
    p = (average(e, 0.003) - 0.1 * average(e, 0.03)) / 1.1
    i = (average(p, 0.001) + average(p, 0.0003)) / 2
    d = np.zeros(len(e))
    for q in (0.3, 0.5):
        d += average(e, 0.03) - 0.9 * average(e, 0.03 * q) - 0.1 * average(e, 0.3 * (1 - 0.9 * q))
    d /= 4

    slope = average(d, 0.03)
    signs = np.where(np.abs(slope) > 1e-9 * target, np.sign(slope), 0)
    for t in range(1, len(e)):
        signs[t] = signs[t] or signs[t - 1]
    flips = [t for t in range(1, len(e)) if signs[t - 1] and signs[t] != signs[t - 1]]
    damping, g = np.empty(len(e)), 0.5
    for t in range(len(e)):
        if t in flips:
            n = flips.index(t)
            intervals = [flips[k] - flips[k - 1] if k else math.inf for k in (n - 1, n) if k >= 0]
            if t > 2000 and intervals[-1] < 1000:
                g += 0.3 + (1.5 if len(intervals) == 2 and intervals[0] < 1000 else 0)
        else:
            g += 0.003 * (0.3 - g)
        damping[t] = g
    P, I, D = 0.2 * p, np.where(i * p > 0, 0.1 * i, 0.0), 2 * d / damping  # noqa: E741
    return sum(weight * np.clip(part, -1, 1) for weight, part in ((1, P + I + D), (1, P), (1, I), (1.5, D)))


def test_pid_is_its_reference_through_swings_that_raise_the_damping() -> None:
    t = np.arange(4500)
    l0s = 50 * np.exp(0.3 * np.sin(t / 90) + 0.05 * np.random.default_rng(0).standard_normal(len(t)))
    pid = Pid()
    moves = np.array([pid.step(float(l0), 50, step) for step, l0 in enumerate(l0s)])
    np.testing.assert_allclose(moves, reference_pid(l0s, 50), rtol=1e-9, atol=1e-9)
    assert pid.state()["damping"] > 1  # the swings were noticed


@given(st.floats(1, 500), st.lists(st.floats(0, 1e4), min_size=1, max_size=60))
def test_pid_is_its_reference_from_the_first_step_on(target: float, l0s: list[float]) -> None:
    pid = Pid()
    moves = [pid.step(l0, target, step) for step, l0 in enumerate(l0s)]
    np.testing.assert_allclose(moves, reference_pid(np.array(l0s), target), rtol=1e-6, atol=1e-9)
    assert all(abs(move) <= 4.5 for move in moves)


def test_pid_takes_an_l0_of_nothing_and_goes_on_from_a_saved_state() -> None:
    one, other = Pid(), Pid()
    for step in range(300):
        assert math.isfinite(one.step(0.0 if step % 2 else 90.0, 16, step))
    other.restore(json.loads(json.dumps(one.state())))
    assert [one.step(20, 16, 300 + n) for n in range(50)] == [other.step(20, 16, 300 + n) for n in range(50)]


def test_pid_forgets_at_a_reset() -> None:
    pid = Pid()
    for step in range(100):
        pid.step(90, 16, step)
    pid.reset()
    assert pid.state() == Pid().state()
