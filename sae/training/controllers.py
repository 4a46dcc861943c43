"""saeco's three controllers of L0. Each says, from one step's L0, how far to move the coefficient: + is up, 1 is full size."""

from __future__ import annotations

import math
from typing import Protocol


class Controller(Protocol):
    """Decides how the sparsity coefficient moves."""

    def step(self, l0: float, target: float, step: int) -> float:
        """The move after a step with this L0: doublings of the coefficient, in units of the config's `adjustment`."""

    def state(self) -> dict[str, float]:
        """What a run needs to go on."""

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""

    def reset(self) -> None:
        """Forget what was measured before a resampling."""


class Stateless:
    """What a controller without memory has for a state."""

    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: dict[str, float]) -> None:
        pass

    def reset(self) -> None:
        pass


class Basic(Stateless):
    """Full size up while L0 is at or above the target, full size down below it."""

    def step(self, l0: float, target: float, step: int) -> float:
        return 1.0 if l0 >= target else -1.0


class GentleBasic(Stateless):
    """As `Basic`, but smaller within two latents of the target: ± min(1, (6d + 1) / 7), where d = |l0 - target| / 2."""

    def step(self, l0: float, target: float, step: int) -> float:
        size = min(1.0, (6 * abs(l0 - target) / 2 + 1) / 7)
        return size if l0 >= target else -size


class Pid:
    """Proportional, integral and differential parts from averages of different rates of e = target · ln(l0 / target).

    With E_r an exponential moving average of rate r that starts at 0:

    - p = (E_.003(e) - 0.1 E_.03(e)) / 1.1, and P = 0.2 p;
    - i = (E_.001(p) + E_.0003(p)) / 2, and I = 0.1 i, or 0 while its sign is not P's;
    - d = Σ_{q ∈ .3, .5} (E_a - 0.9 E_{qa} - 0.1 E_{(1 - .9q) a / .1})(e) / 4 with a = .03, and D = 2 d / g;
    - g is a damping that starts at 0.5 and relaxes to 0.3 at rate .003. Each change of sign of E_.03(d) within 1,000 steps
      of the one before adds 0.3 once 2,000 steps are past, and 1.5 more if the interval before was as short.

    The move is c(P + I + D) + c(P) + c(I) + 1.5 c(D), where c clips to [-1, 1]. saeco's rule that drops the sum where P and
    D agree with each other and not with it can't apply, since I never disagrees with P.

    An L0 of 0 counts as `LEAST` latents, where the logarithm is finite.
    """

    LEAST = 1e-3
    FAST, RATIOS, SHARE = 0.03, (0.3, 0.5), 0.9

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._averages: dict[str, float] = {}
        self._damping, self._sign = 0.5, 0.0
        self._flipped, self._interval = -math.inf, math.inf

    def step(self, l0: float, target: float, step: int) -> float:
        e = target * math.log(max(l0, self.LEAST) / target)
        p = (self._average("e", e, 0.003) - 0.1 * self._average("e", e, 0.03)) / 1.1
        i = (self._average("p", p, 0.001) + self._average("p", p, 0.0003)) / 2
        d = sum(self._slope(e, q) for q in self.RATIOS) / (2 * len(self.RATIOS))
        slope = self._average("d", d, self.FAST)
        self._damp(slope if abs(slope) > 1e-9 * target else 0.0, step)  # at the first step d is 0 but for rounding

        P = 0.2 * p
        I = 0.1 * i if i * p > 0 else 0.0  # noqa: E741 - the letter that everyone knows it by
        D = 2 * d / self._damping
        return _clip(P + I + D) + _clip(P) + _clip(I) + 1.5 * _clip(D)

    def _slope(self, e: float, q: float) -> float:
        """A fast average less two slower and faster ones, weighted so that a constant e comes to 0."""
        fast, share = self.FAST, self.SHARE
        rest = (1 - share * q) * fast / (1 - share)
        slower, faster = (self._average(f"e, q {q}", e, rate) for rate in (q * fast, rest))
        return self._average(f"e, q {q}", e, fast) - share * slower - (1 - share) * faster

    def _damp(self, slope: float, step: int) -> None:
        """Raise the damping where the slope's sign goes back and forth, and let it relax elsewhere."""
        sign = math.copysign(1.0, slope) if slope else self._sign
        if self._sign and sign != self._sign:
            interval = step - self._flipped
            if step > 2000 and interval < 1000:
                self._damping += 0.3 + (1.5 if self._interval < 1000 else 0.0)
            self._flipped, self._interval = step, interval
        else:
            self._damping += 0.003 * (0.3 - self._damping)
        self._sign = sign

    def _average(self, name: str, value: float, rate: float) -> float:
        key = f"{name} at {rate:.6g}"
        before = self._averages.get(key, 0.0)
        self._averages[key] = before + rate * (value - before)
        return self._averages[key]

    def state(self) -> dict[str, float]:
        flips = {"damping": self._damping, "sign": self._sign}
        # Infinities are no JSON: a flip that has not been is left out.
        times = {"flipped": self._flipped, "interval": self._interval}
        return self._averages | flips | {name: time for name, time in times.items() if math.isfinite(time)}

    def restore(self, state: dict[str, float]) -> None:
        self.reset()
        rest = dict(state)
        self._damping, self._sign = rest.pop("damping"), rest.pop("sign")
        self._flipped, self._interval = rest.pop("flipped", -math.inf), rest.pop("interval", math.inf)
        self._averages = rest


def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))
