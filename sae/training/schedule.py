"""The learning rate over a run: warmup, plateau, cooldown."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sae.config import InputError, SweepableConfig

StepsOrFraction = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]


class ScheduleConfig(SweepableConfig):
    """Lengths are in steps where they are whole numbers (1000), shares of the run where they have a point (0.1)."""

    warmup: StepsOrFraction = Field(default=0.05, description="Length of the rise at the start.")
    cooldown: StepsOrFraction = Field(default=0.2, description="Length of the fall at the end.")
    warmup_from: float = Field(default=0.1, gt=0, le=1, description="Factor on the learning rate at the first step.")
    cooldown_to: float = Field(default=0.1, gt=0, le=1, description="Factor on the learning rate at the last step.")


class Schedule:
    """Factors on the learning rate; both ends are geometric, as in saeco.

    Args:
        config: lengths and factors.
        steps: length of the run.

    Raises:
        InputError: warmup and cooldown do not fit into the run.
    """

    def __init__(self, config: ScheduleConfig, steps: int) -> None:
        self.config = config
        self.steps = steps
        self.warmup = in_steps(config.warmup, steps)
        self.cooldown = in_steps(config.cooldown, steps)
        if self.warmup + self.cooldown > steps:
            raise InputError(
                "warmup and cooldown do not fit into the run",
                where="train.schedule",
                found=f"{self.warmup} + {self.cooldown} steps",
                expected=f"at most train.steps = {steps}",
            )

    def factor(self, step: int) -> float:
        """The factor at `step`, counted from 0: low^(1 - s), with s from 0 to 1 through the warmup and back in the cooldown."""
        if step < self.warmup:
            return float(self.config.warmup_from ** (1 - step / self.warmup))
        to_end = max(0, self.steps - step)
        if to_end < self.cooldown:
            return float(self.config.cooldown_to ** (1 - to_end / self.cooldown))
        return 1.0


def in_steps(length: float, steps: int) -> int:
    """A length in steps: whole numbers as they are, fractions as a share of `steps`."""
    return length if isinstance(length, int) else round(length * steps)
