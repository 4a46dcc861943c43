"""`paced`: our controller of L0."""

from __future__ import annotations

import math

from sae.training.schedule import Schedule


class Paced:
    """Proportional-integral control of ln(l0 / target), at the pace of the learning rate.

    Args:
        schedule: of the run, for the learning rate's factor.
    """

    LEAST = 1e-3

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.reset()

    def reset(self) -> None:
        self._error: float | None = None

    def step(self, l0: float, target: float, step: int) -> float:
        error = math.log(max(l0, self.LEAST) / target)
        change = 0.0 if self._error is None else error - self._error
        self._error = error
        pace = self._schedule.factor(step)
        move = pace * 0.02 * max(-1.0, min(1.0, error)) + 0.3 * max(-0.1, min(0.1, change))
        return move / math.log(2)

    def state(self) -> dict[str, float]:
        return {} if self._error is None else {"error": self._error}

    def restore(self, state: dict[str, float]) -> None:
        self._error = state.get("error")
