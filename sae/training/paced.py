"""`paced`: our controller of L0, which brings it down slowly over most of the run instead of chasing the target.

What it steers, as measured on every architecture that ships:

- Whatever the coefficient is, L0 falls only as fast as the weights can move; until it has come down, the distance to the
  target says nothing of the coefficient. A controller that takes it for an error raises the coefficient many times too high,
  and an SAE that was under ten times its coefficient for a hundred steps stays bad. Too low does no such harm.
- The longer L0 takes to come down, the better the features are: a coefficient that rises in a straight line until 85 % of
  the run found more of them than one that had risen after 20 %, at the same L0 (figures in docs/training.md).
- How L0 answers is slower the smaller the learning rate is. Near the target, it answers steeply in one architecture
  (vanilla with few latents) and slowly in another.

So the coefficient begins far below its start (the config's `begin_below`) and climbs quickly until L0 answers: a search for
its order of magnitude that costs a few percent of the run. Then it is raised, in about a straight line, to where it is
expected to be needed when `PATH` of the run is over: L0 is taken to go with a power of the coefficient. Where that
expectation fails and L0 is slower, the rate grows. Near the target, proportional-integral control takes over, with a gain
that falls where L0 swings and grows where nothing moves. All lengths are shares of the run, and rates go with the learning
rate's factor: a run ten times as long is steered ten times as slowly.
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

    WAIT = 0.02  # share of the run at whose start nothing moves, since the learning rate is low and L0 can't answer
    CLIMB = 200.0  # e-foldings of the coefficient in a run at the full rate, which is reached at `FULL_RATE` of the run
    FULL_RATE = 0.04
    ANSWER = 0.5  # L0 answers when it falls so fast that it would come to the target in this share of the run

    PATH = 0.8  # share of the run at which L0 is to be there
    LAST = 0.06  # from then on, share of the run in which it is to be there from anywhere
    POWER, MORE = 0.8, 0.45  # L0 goes with the coefficient to the power of -(POWER + MORE · error): steeper far from the target
    FASTEST = 30.0  # largest factor on the rate, where L0 is slower than expected
    FASTEST_DOWN = 4.0  # the same below the target: there a JumpReLU's L0 comes back slowly, whatever the coefficient is
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
        self._still = False  # whether L0 was seen not to answer
        self._rate = 1.0  # factor on the rate of the second part
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
        if self._climbing:
            # Below the target with a coefficient that is too low, L0 still rises by itself.
            return 0.0 if step < self.WAIT * steps or error <= 0 else self._climb(error, step) * pace / math.log(2)
        move = self._follow(error, step) * pace if abs(error) > self.NEAR else self._integrate(error, last) * math.sqrt(pace)
        return (move + self._change_proportional(error)) / math.log(2)

    def _climb(self, error: float, step: int) -> float:
        """At first: up, until L0 falls. L0 falls at the start of any run, which is no answer: it must have been slow once."""
        steps = self._length()
        slower = _clip(1 + self.ANSWER * steps * self._slope / error, 1.0)
        if self._still and slower < 0:
            self._climbing = False
        self._still |= slower > 0.5
        return self.CLIMB / steps * min(1.0, step / (self.FULL_RATE * steps)) * max(0.0, slower)

    def _follow(self, error: float, step: int) -> float:
        """Far from the target: the rate that brings the coefficient in a straight line to where L0 is expected to be on it."""
        steps = self._length()
        left = max(self.PATH * self._schedule.steps - step, self.LAST * steps)
        slower = 1 + left * self._slope / error  # 0 where L0 would be there in time at its speed now, 1 where it stands still
        fastest = self.FASTEST if error > 0 else self.FASTEST_DOWN
        if slower > 0.5:
            self._rate = min(fastest, self._rate * math.exp(1 / (self.PATIENCE * steps)))
        elif slower < 0:
            self._rate = max(1.0, self._rate * math.exp(-4 / (self.PATIENCE * steps)))
        return self._rate * math.expm1(error / (self.POWER + self.MORE * max(error, 0.0))) / left

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
        before, self._proportional = self._proportional, self.PROPORTIONAL * self._gain * _clip(error, self.CLIP)
        return 0.0 if before is None else self._proportional - before

    def _length(self) -> int:
        return max(self._schedule.steps, self.SHORTEST)

    def state(self) -> dict[str, float]:
        state = {
            "climbing": float(self._climbing),
            "still": float(self._still),
            "rate": self._rate,
            "gain": self._gain,
            "peak": self._peak,
            "slope": self._slope,
        }
        since_reset = {"error": self._error, "proportional": self._proportional}
        return state | {name: value for name, value in since_reset.items() if value is not None}

    def restore(self, state: dict[str, float]) -> None:
        self._climbing, self._still = bool(state["climbing"]), bool(state["still"])
        self._rate, self._gain = state["rate"], state["gain"]
        self._peak, self._slope = state["peak"], state["slope"]
        self._error, self._proportional = state.get("error"), state.get("proportional")


def _clip(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))
