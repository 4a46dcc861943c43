"""Steering the sparsity coefficient so that L0 comes to its target. The coefficient is state, never config."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from sae.config import SweepableConfig
from sae.training.controllers import Basic, Controller, GentleBasic, Pid
from sae.training.paced import Paced
from sae.training.schedule import Schedule, StepsOrFraction, in_steps


class L0TargetingConfig(SweepableConfig):
    """How the coefficient is steered.

    Lengths as in the schedule: those that follow a resampling are shares of the time between two resamplings.
    """

    controller: Literal["paced", "basic", "gentle_basic", "pid", "none"] = Field(
        default="paced",
        description="`paced` is ours, the next three are saeco's; `none` leaves the coefficient as it is.",
    )
    coefficient: str = Field(default="sparsity_loss", description="Which loss's coefficient is steered.")
    start: float = Field(default=0.02, gt=0, description="The coefficient to begin with, unless train.coefficients has one.")
    begin_below: float = Field(
        default=1.0e4,
        ge=1,
        description="`paced` begins with the start divided by this and climbs until L0 answers; 1, where a trained SAE goes on, "
        "steers from the start itself.",
    )
    range: float = Field(default=1.0e6, gt=1, description="The coefficient stays within this factor of the start.")
    adjustment: float = Field(
        default=3.0e-3, gt=0, description="Doublings of the coefficient in a step of saeco's controllers, where they say 1."
    )
    average: int = Field(default=10, ge=1, description="Steps over which L0 is averaged; 1 takes each batch by itself, as saeco.")
    delay: StepsOrFraction = Field(default=0, description="Steps at the start without steering.")
    warmup: StepsOrFraction = Field(default=0, description="Length over which adjustments grow to their full size; saeco's 0.15.")
    hiatus: StepsOrFraction = Field(default=0.2, description="Length without steering after each resampling.")
    resample_warmup: StepsOrFraction = Field(default=0.2, description="Length over which adjustments grow after each hiatus.")
    trim: bool = Field(default=True, description="Shift all thresholds of the finished model alike until its L0 is the target.")
    pre_deflation: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Steer to a target smaller by this share, which comes back through the lr cooldown."
    )


class L0Controller:
    """Steers one coefficient; switched off where there is no target, or no loss of the coefficient's name.

    Each step multiplies the coefficient by 2^(scale · adjustment · move): the controller gives the move from the average
    of L0, the schedule the scale.

    Args:
        config: see above.
        target: mean number of active latents to come to; None for none.
        given: the coefficient that takes the place of the config's start; None for that, or for 1 where nothing is steered.
        schedule: of the run; knows the resamplings and the pace of the learning rate.

    Attributes:
        coefficient: its value now.
    """

    def __init__(self, config: L0TargetingConfig, target: float | None, given: float | None, schedule: Schedule) -> None:
        self.config, self.schedule = config, schedule
        self.target = target if config.controller != "none" else None
        default = 1.0 if self.target is None else config.start
        self.coefficient = default if given is None else given
        self._begin = self.coefficient
        if self.target is not None and config.controller == "paced":
            self.coefficient /= config.begin_below
        self.average = L0Average(config.average)
        self._controller, self._unit = make_controller(config, schedule)
        self._delay, self._warmup = (in_steps(length, schedule.steps) for length in (config.delay, config.warmup))
        self._hiatus = in_steps(config.hiatus, schedule.period)
        self._resample_warmup = in_steps(config.resample_warmup, schedule.period)

    def update(self, l0: float, step: int) -> None:
        """Adjust the coefficient after a step, numbered from 0, whose batch had this mean L0.

        An L0 that is not finite changes nothing; the trainer stops on what caused it.
        """
        if self.target is None or not math.isfinite(l0):
            return
        if self.schedule.since_resampling(step) == 0:  # what was measured before was another model
            self.average.reset()
            self._controller.reset()
        l0 = self.average.update(l0)
        scale = self.scale(step)
        if scale == 0:
            return
        move = self._controller.step(l0, self.target * self.target_factor(step), step)
        moved = self.coefficient * 2 ** (scale * self._unit * move)
        self.coefficient = max(self._begin / self.config.range, min(self._begin * self.config.range, moved))

    def scale(self, step: int) -> float:
        """What moves are multiplied by: a ramp at the start; 0 in the hiatus after a resampling, then a ramp again."""
        if step < self._delay:
            return 0.0
        scale = min(1.0, step / self._warmup) if self._warmup else 1.0
        since = self.schedule.since_resampling(step)
        if since is None:
            return scale
        if since < self._hiatus:
            return 0.0
        return scale * (min(1.0, (since - self._hiatus) / self._resample_warmup) if self._resample_warmup else 1.0)

    def target_factor(self, step: int) -> float:
        """What the target is multiplied by: 1 - pre_deflation until the cooldown, through which it rises to 1."""
        cooldown = self.schedule.cooldown
        left = min(self.schedule.before_end_plateau(step), cooldown) / cooldown if cooldown else 0.0
        return 1 - self.config.pre_deflation * left

    def state(self) -> dict[str, float]:
        """What a run needs to go on."""
        inner = {f"controller/{name}": value for name, value in self._controller.state().items()}
        return {"coefficient": self.coefficient, "begin": self._begin} | self.average.state() | inner

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.coefficient, self._begin = state["coefficient"], state["begin"]
        self.average.restore(state)
        prefix = "controller/"
        self._controller.restore({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


class L0Average:
    """An exponential moving average over recent steps that is unbiased from its first value on.

    Args:
        window: the time constant in steps; 1 keeps the last value alone.
    """

    def __init__(self, window: int) -> None:
        self._keep = 1 - 1 / window
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sum, self._weight = 0.0, 0.0

    def update(self, l0: float) -> float:
        """Take in a value and return the average."""
        self._sum = self._keep * self._sum + l0
        self._weight = self._keep * self._weight + 1
        return self._sum / self._weight

    def state(self) -> dict[str, float]:
        return {"average_sum": self._sum, "average_weight": self._weight}

    def restore(self, state: dict[str, float]) -> None:
        self._sum, self._weight = state["average_sum"], state["average_weight"]


def make_controller(config: L0TargetingConfig, schedule: Schedule) -> tuple[Controller, float]:
    """The controller that a config names, and the doublings of the coefficient that a move of 1 is."""
    if config.controller in ("paced", "none"):
        return Paced(schedule, climb=config.begin_below > 1), 1.0
    saeco: dict[str, type[Controller]] = {"basic": Basic, "gentle_basic": GentleBasic, "pid": Pid}
    return saeco[config.controller](), config.adjustment
