"""What changes over a run by plan: the learning rate, and how far and to what target the sparsity coefficient is steered.

A step is known by the number of steps taken before it, so a run has the steps 0 … steps - 1, and a resampling "after step
n" comes when n steps have been taken: step n is the first one after it. saeco counts the same way: its t is ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from sae.config import InputError, SweepableConfig

StepsOrFraction = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]


class ScheduleConfig(SweepableConfig):
    """Lengths are in steps where they are whole numbers (1000), shares where they have a point (0.1).

    Shares are of the run; those of the two lengths that follow a resampling are of the time between two resamplings.
    """

    warmup: StepsOrFraction = Field(default=0.05, description="Length of the learning rate's rise at the start.")
    warmup_from: Factor = Field(default=0.1, description="Factor on the learning rate at the first step.")
    cooldown: StepsOrFraction = Field(default=0.2, description="Length of its fall at the end, before the end plateau.")
    cooldown_to: Factor = Field(default=0.1, description="Factor on the learning rate at the end of the cooldown.")
    end_plateau: StepsOrFraction = Field(default=0, description="Length of the last part, at the cooldown's low factor.")
    resample_warmup: StepsOrFraction = Field(default=0.2, description="Length of the rise after each resampling of dead latents.")
    resample_from: Factor = Field(default=0.1, description="Factor on the learning rate right after a resampling.")
    interpolation: Literal["geometric", "linear"] = Field(
        default="geometric", description="Between a low factor f and 1, with s from 0 to 1: f^(1 - s), or max(s, f)."
    )


class Schedule:
    """Factors on the learning rate, as in saeco: A(step) · B(step), after a resampling and over the run.

    Args:
        config: lengths and factors.
        steps: length of the run.
        resample_steps: after which numbers of steps dead latents are resampled; see `resample_steps`.
        period: steps between two resamplings, which shares are taken of; from `resample_steps` if left out.

    Attributes:
        warmup, cooldown, end_plateau, resample_warmup: the lengths in steps.

    Raises:
        InputError: warmup, cooldown and end plateau do not fit into the run.
    """

    def __init__(self, config: ScheduleConfig, steps: int, resample_steps: Sequence[int] = (), period: int | None = None) -> None:
        self.config = config
        self.steps = steps
        self.resample_steps = sorted(resample_steps)
        gaps = [after - before for before, after in zip(self.resample_steps, self.resample_steps[1:], strict=False)]
        self.period = period or min(gaps, default=max(self.resample_steps, default=steps))
        self.warmup = in_steps(config.warmup, steps)
        self.cooldown = in_steps(config.cooldown, steps)
        self.end_plateau = in_steps(config.end_plateau, steps)
        self.resample_warmup = in_steps(config.resample_warmup, self.period)
        if self.warmup + self.cooldown + self.end_plateau > steps:
            raise InputError(
                "warmup, cooldown and end plateau do not fit into the run",
                where="train.schedule",
                found=f"{self.warmup} + {self.cooldown} + {self.end_plateau} steps",
                expected=f"at most train.steps = {steps}",
            )

    def factor(self, step: int) -> float:
        """The factor on the learning rate at `step`."""
        return self.resample_factor(step) * self.run_factor(step)

    def resample_factor(self, step: int) -> float:
        """A: rises to 1 anew after each resampling; 1 before the first. All that a schedule-free optimizer takes."""
        since = self.since_resampling(step)
        if since is None or since >= self.resample_warmup:
            return 1.0
        return self._between(self.config.resample_from, since / self.resample_warmup)

    def run_factor(self, step: int) -> float:
        """B: rises through the warmup, stays, falls through the cooldown, and stays low on the end plateau."""
        if step < self.warmup:
            return self._between(self.config.warmup_from, step / self.warmup)
        left = self.before_end_plateau(step)
        if left < self.cooldown:
            return self._between(self.config.cooldown_to, left / self.cooldown)
        return self.config.cooldown_to if left == 0 and self.end_plateau else 1.0

    def since_resampling(self, step: int) -> int | None:
        """Steps taken since the last resampling; None before the first."""
        past = bisect_right(self.resample_steps, step)
        return step - self.resample_steps[past - 1] if past else None

    def before_end_plateau(self, step: int) -> int:
        """Steps that are left until the end plateau, or until the end where there is none."""
        return max(0, self.steps - self.end_plateau - step)

    def _between(self, low: float, s: float) -> float:
        return float(low ** (1 - s)) if self.config.interpolation == "geometric" else max(s, low)


def resample_steps(steps: int, *, every: int, delay: StepsOrFraction = 0, finish: StepsOrFraction = 0.3) -> list[int]:
    """After which numbers of steps dead latents are resampled, as in saeco.

    Every `every` steps from `delay` on (from the end of the first period if that is 0), but not in the last `finish` of
    the run, and not at its end.
    """
    first = in_steps(delay, steps) or every
    last = min(steps - in_steps(finish, steps), steps - 1)
    return list(range(first, last + 1, every))


def in_steps(length: float, steps: int) -> int:
    """A length in steps: whole numbers as they are, fractions as a share of `steps`."""
    return length if isinstance(length, int) else round(length * steps)
