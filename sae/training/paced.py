"""`paced`: our controller of L0, which follows a path down to the target instead of chasing it.

What it steers, as measured on every architecture that ships:

- Whatever the coefficient is, L0 falls only as fast as the weights can move; until it has come down, the distance to the
  target says nothing of the coefficient. A controller that takes it for an error raises the coefficient many times too high,
  and an SAE that was under ten times its coefficient for a hundred steps stays bad. Too low does no such harm.
- How L0 answers is slower the smaller the learning rate is.
- Near the target, L0 answers steeply in one architecture (vanilla with few latents) and slowly in another.

So the coefficient begins far below its start (the config's `begin_below`) and climbs until L0 answers, then is steered so
that ln(l0 / target) would come to 0, in a straight line, when `PATH` of the run is over; near the target,
proportional-integral control takes over, with a gain that halves where it swings and grows where nothing moves. All lengths
are shares of the run, and rates go with the learning rate's factor: a run ten times as long is steered ten times as slowly.
"""

from __future__ import annotations

import math

from sae.training.schedule import Schedule


class Paced:
    """See above.

    Args:
        schedule: of the run: its length and the learning rate's factor.
        climb: whether the coefficient begins too low and is to climb until L0 answers.
    """

    SHORTEST = 500  # steps that rates and times of reaction are shares of in a shorter run: L0 is not faster in it
    LEAST = 1e-3  # latents that an L0 of 0 counts as: its logarithm is to be finite

    WAIT = 0.06  # share of the run at whose start nothing moves, since the learning rate is low and L0 can't answer
    CLIMB = 70.0  # e-foldings of the coefficient in a run at the full rate, which is reached at `FULL_RATE` of the run
    FULL_RATE = 0.2
    SLOWEST = 0.1  # share of the full rate that remains when L0 has answered more than once
    PATH = 0.5  # share of the run at which L0 is to be there
    LAST = 0.08  # from then on, share of the run in which it is to be there from anywhere
    SLOPE = 20  # steps that the slope of L0 is averaged over

    NEAR = 0.1  # |ln(l0 / target)| within which the second part takes over
    CLIP = 0.2  # of the error that it acts on
    PROPORTIONAL, INTEGRAL = 1.0, 0.025  # gain, and share of the run in which a lasting error moves the coefficient as much
    AHEAD = 0.02  # share of the run by which the integral looks ahead along the slope
    LOWEST_GAIN, HIGHEST_GAIN = 0.25, 2.5
    PATIENCE = 0.1  # share of the run in which the gain grows e-fold, and in which an error is to halve lest it does

    def __init__(self, schedule: Schedule, *, climb: bool = True) -> None:
        self._schedule = schedule
        self._climbing = climb
        self._rate, self._rising = 1.0, False  # share of the full rate; whether L0 is slower than the path
        self._gain, self._peak = 1.0, 0.0  # the largest error since the last change of sign
        self.reset()

    def reset(self) -> None:
        self._error: float | None = None
        self._proportional: float | None = None
        self._slope = 0.0  # of the error, in a step

    def step(self, l0: float, target: float, step: int) -> float:
        """The move in doublings of the coefficient; see `Controller`."""
        steps, pace = self._schedule.steps, self._schedule.factor(step)
        error = math.log(max(l0, self.LEAST) / target)
        last, self._error = self._error, error
        if last is None:
            return 0.0
        # Averaged in units of the learning rate: it weighs a step by how far the weights moved in it.
        self._slope += (error - last - pace * self._slope) / self.SLOPE

        if step > self.PATH * steps:
            self._climbing = False
        if self._climbing and (step < self.WAIT * steps or error <= 0):
            return 0.0  # below the target with a coefficient that is too low: L0 still rises by itself
        if self._climbing or abs(error) > self.NEAR:
            move = self._follow(error, step) * pace
        else:
            move = self._integrate(error, last) * math.sqrt(pace)
        return (move + self._change_proportional(error)) / math.log(2)

    def _follow(self, error: float, step: int) -> float:
        """Far from the target: by how far L0 is slower (+) or faster (-) than the path. The rate falls each time it answers."""
        steps = self._length()
        left = max(self.PATH * self._schedule.steps - step, self.LAST * steps)
        slower = _clip(1 + left * self._slope / error, 1.0)
        if self._rising and slower < 0:
            self._rate = max(self.SLOWEST, 0.35 * self._rate)
            self._rising = self._climbing = False
        if slower > 0.5:
            self._rising = True
            self._rate = min(1.0, self._rate * math.exp(1 / (self.PATIENCE * steps)))
        if self._climbing:
            slower = max(0.0, slower)  # L0 falls at the start of any run; that is no answer
        full = self.CLIMB / steps * min(1.0, step / (self.FULL_RATE * steps))
        return math.copysign(1.0, error) * full * self._rate * slower

    def _integrate(self, error: float, last: float) -> float:
        """Near the target: the integral part, and what the gain learns from the error."""
        steps = self._length()
        if error * last < 0:
            if self._peak > 0.03:  # it swung through the target, not just noise
                self._gain = max(self.LOWEST_GAIN, 0.7 * self._gain)
            self._peak = 0.0
        self._peak = max(self._peak, abs(error))
        if abs(error) > 0.01 and 1 + self.PATIENCE * steps * self._slope / error > 0.5:
            self._gain = min(self.HIGHEST_GAIN, self._gain * math.exp(1 / (self.PATIENCE * steps)))
        ahead = error + self.AHEAD * steps * self._slope
        return self.PROPORTIONAL * self._gain / (self.INTEGRAL * steps) * _clip(ahead, self.CLIP)

    def _change_proportional(self, error: float) -> float:
        """How the proportional part changes. It is kept as a whole, so that a gain that moves leaves nothing behind."""
        if self._climbing:
            return 0.0
        before, self._proportional = self._proportional, self.PROPORTIONAL * self._gain * _clip(error, self.CLIP)
        return 0.0 if before is None else self._proportional - before

    def _length(self) -> int:
        return max(self._schedule.steps, self.SHORTEST)

    def state(self) -> dict[str, float]:
        state = {
            "climbing": float(self._climbing),
            "rate": self._rate,
            "rising": float(self._rising),
            "gain": self._gain,
            "peak": self._peak,
            "slope": self._slope,
        }
        since_reset = {"error": self._error, "proportional": self._proportional}
        return state | {name: value for name, value in since_reset.items() if value is not None}

    def restore(self, state: dict[str, float]) -> None:
        self._climbing, self._rising = bool(state["climbing"]), bool(state["rising"])
        self._rate, self._gain = state["rate"], state["gain"]
        self._peak, self._slope = state["peak"], state["slope"]
        self._error, self._proportional = state.get("error"), state.get("proportional")


def _clip(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))
