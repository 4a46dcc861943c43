"""`paced`: our controller of L0.

L0 follows a penalty's coefficient slowly, over a tenth of a run, and it is easier to drive latents to death than to bring
them back. So the coefficient comes from below, at a pace that lets L0 land on its target half way through the run, and is
then held there by proportional-integral control. All in logarithms, since L0 falls about as a power of the coefficient.
"""

from __future__ import annotations

import math

from sae.training.schedule import Schedule

BEGIN = 1e-4  # of the start coefficient: from below, however much too large that is
LEARN = 0.06  # share of the run at the start in which features form, nearly unpunished
LAND = 0.55  # share of the run at which L0 is to have come to its target
RATE = 60.0  # nats that the coefficient would climb in a whole run at full rate
SLOPE_STEPS = 20  # over which the slope of the error is averaged
CLOSE = 0.1  # error, in nats, within which the approach gives way to holding
LEAST_HORIZON = 0.08  # share of the run that the approach at least looks ahead
LOOK_AHEAD = 0.03  # the same for holding
GAIN, INTEGRAL = 2.0, 0.1  # of holding: proportional, and the integral's time as a share of the run
BOUND = 0.2  # nats that an error counts for at most when holding


class Paced:
    """Approach, then hold.

    With e = ln(L0 / target) and its slope e', the approach predicts the error at landing, e + h e', and moves at a rate in
    proportion to its share of e: it slows down when L0 is on course, and turns back when L0 would fall below. Each
    turning back makes the rate smaller. Holding adds to ln c the gain times (de + dt · (e + h e') / T), where the gain
    falls when L0 swings about its target and grows when it stays off it. Everything goes at the pace of the learning
    rate, which is the pace at which L0 can follow.

    Args:
        schedule: of the run, for its length and the learning rate's factor.
    """

    LEAST = 1e-3  # an L0 of 0 counts as this

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._begun = False
        self._holding = False  # L0 has met its target once, or should have
        self._pushed = False  # since the last turning back
        self._rate = self._full_rate = RATE / schedule.steps
        self._gain = 1.0
        self._peak = 0.0  # largest error since the last crossing of the target
        self.reset()

    def reset(self) -> None:
        """Forget what was measured; how far the run has come is kept."""
        self._error: float | None = None
        self._slope = 0.0

    def step(self, l0: float, target: float, step: int) -> float:
        """Doublings of the coefficient."""
        error, pace = math.log(max(l0, self.LEAST) / target), self._schedule.factor(step)
        if not self._begun:
            self._begun, self._error = True, error
            return math.log2(BEGIN)
        last, self._error = error if self._error is None else self._error, error
        self._slope += (error - last - pace * self._slope) / SLOPE_STEPS
        done = step / self._schedule.steps
        if done < LEARN:
            return 0.0
        self._holding = self._holding or done > LAND
        if not self._holding and error <= 0:
            return 0.0  # sparse enough before any penalty: wait for the features
        near = self._holding and abs(error) <= CLOSE
        move = self._hold(error, last, pace) if near else self._approach(error, pace, done)
        if self._holding:
            move += GAIN * self._gain * pace * (_bounded(error, BOUND) - _bounded(last, BOUND))
        return move / math.log(2)

    def _approach(self, error: float, pace: float, done: float) -> float:
        horizon = max(LAND - done, LEAST_HORIZON) * self._schedule.steps
        push = _bounded(1 + horizon * self._slope / error, 1.0) if error else 0.0
        if self._pushed and push < 0:
            self._rate, self._pushed, self._holding = max(0.1 * self._full_rate, 0.35 * self._rate), False, True
        if push > 0.5:
            self._pushed = True
            self._rate = min(self._full_rate, self._rate * math.exp(10 / self._schedule.steps))
        if not self._holding:
            push = max(0.0, push)
        return self._rate * pace * push * math.copysign(1.0, error)

    def _hold(self, error: float, last: float, pace: float) -> float:
        steps = self._schedule.steps
        move = GAIN * self._gain * pace / (INTEGRAL * steps) * _bounded(error + LOOK_AHEAD * steps * self._slope, BOUND)
        if error * last < 0:
            if self._peak > 0.03:
                self._gain = max(0.2, 0.7 * self._gain)
            self._peak = 0.0
        self._peak = max(self._peak, abs(error))
        if abs(error) > 0.015 and 1 + 0.1 * steps * self._slope / error > 0.5:
            self._gain = min(4.0, self._gain * math.exp(10 * pace / steps))
        return move

    def state(self) -> dict[str, float]:
        """What a run needs to go on, as numbers."""
        state = {
            "begun": float(self._begun),
            "holding": float(self._holding),
            "pushed": float(self._pushed),
            "rate": self._rate,
            "gain": self._gain,
            "peak": self._peak,
            "slope": self._slope,
        }
        return state if self._error is None else state | {"error": self._error}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self._begun, self._holding, self._pushed = (bool(state[name]) for name in ("begun", "holding", "pushed"))
        self._rate, self._gain, self._peak, self._slope = (state[name] for name in ("rate", "gain", "peak", "slope"))
        self._error = state.get("error")


def _bounded(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))
