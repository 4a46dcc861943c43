"""Steering the sparsity coefficient so that L0 comes to its target. The coefficient is state, never config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sae.config import SweepableConfig
from sae.training.schedule import StepsOrFraction, in_steps


class L0TargetingConfig(SweepableConfig):
    """How the coefficient is steered."""

    controller: Literal["basic", "none"] = Field(default="basic", description="`none` leaves the coefficient as it is.")
    coefficient: str = Field(default="sparsity_loss", description="Which loss's coefficient is steered.")
    start: float = Field(default=0.02, gt=0, description="The coefficient to begin with, unless train.coefficients has one.")
    adjustment: float = Field(default=3.0e-3, gt=0, description="Doublings of the coefficient in a step, at most.")
    warmup: StepsOrFraction = Field(default=0.15, description="Length over which the adjustment grows to its full size.")


class L0Controller:
    """Steers one coefficient; switched off where there is no target, or no loss of the coefficient's name.

    saeco's `basic` controller: each step multiplies the coefficient by 2^(±adjustment · warmup(t)).

    The sign is + while the batch's L0 is at or above the target, - below it.

    Args:
        config: see above.
        target: mean number of active latents to come to; None for none.
        given: the coefficient to begin with; None for the config's start, or for 1 where nothing is steered.
        steps: length of the run.
    """

    def __init__(self, config: L0TargetingConfig, target: float | None, given: float | None, steps: int) -> None:
        self.config = config
        self.target = target if config.controller != "none" else None
        default = 1.0 if self.target is None else config.start
        self.coefficient = default if given is None else given
        self._warmup = in_steps(config.warmup, steps)

    def update(self, l0: float, step: int) -> None:
        """Adjust the coefficient after a step whose batch had this mean L0."""
        if self.target is None:
            return
        sign = 1.0 if l0 >= self.target else -1.0
        scale = min(1.0, step / self._warmup) if self._warmup else 1.0
        self.coefficient *= 2 ** (sign * scale * self.config.adjustment)

    def state(self) -> dict[str, float]:
        """What a run needs to go on."""
        return {"coefficient": self.coefficient}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.coefficient = state["coefficient"]
