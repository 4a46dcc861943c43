"""Ending a run before its last step: bounds that a figure must keep, and patience with a held-out figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from sae.config import InputError, SweepableConfig, nearest_name

Bounds = dict[str, dict[Annotated[int, Field(gt=0)], float]]


class EarlyStoppingConfig(SweepableConfig):
    """When a run ends early. Figures go by their names in the training curves."""

    min: Bounds = Field(default={}, description="`{figure: {step: bound}}`: stop if the figure is below its bound at that step.")
    max: Bounds = Field(default={}, description="The same for a figure that is above.")
    patience: int | None = Field(default=None, gt=0, description="Stop after so many points of the curve without a new best.")
    figure: str = Field(default="held_out_fvu", description="What patience watches; smaller is better.")


class EarlyStopping:
    """Watches the training curves.

    Attributes:
        best: least value of the watched figure so far.
        waited: points of the curve since then.
        reason: why the run is to end; None while it goes on.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.best: float | None = None
        self.waited = 0
        self.reason: str | None = None
        self._before = 0

    def update(self, step: int, figures: Mapping[str, float]) -> None:
        """Take in a point of the curve. A bound is tried at the first point at or after its step.

        Raises:
            InputError: a bound names no figure.
        """
        for kind, bounds in (("min", self.config.min), ("max", self.config.max)):
            for name, by_step in bounds.items():
                self._check(name, f"train.early_stopping.{kind}", figures)
                for at, bound in by_step.items():
                    value = figures[name]
                    broken = value < bound if kind == "min" else value > bound
                    if self._before < at <= step and broken:
                        self.reason = f"{name} is {value:.4g} at step {step}, and its bound is {kind} {bound:g}"
        self._before = step
        if self.config.patience is not None:
            self._wait(step, figures)

    def _wait(self, step: int, figures: Mapping[str, float]) -> None:
        self._check(self.config.figure, "train.early_stopping.figure", figures)
        value = figures[self.config.figure]
        if self.best is None or value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= (self.config.patience or 0):
            self.reason = f"{self.config.figure} has not gone below {self.best:.4g} for {self.waited} points, up to step {step}"

    def go_on(self) -> None:
        """Take up a run that was ended: its patience begins anew."""
        self.reason, self.waited = None, 0

    @staticmethod
    def _check(name: str, where: str, figures: Mapping[str, float]) -> None:
        if name not in figures:
            expected = ", ".join(figures)
            raise InputError(
                "the training curves have no such figure",
                where=where,
                found=name,
                expected=expected,
                nearest=nearest_name(name, figures),
            )

    def state(self) -> dict[str, Any]:
        """What a run needs to go on."""
        return {"best": self.best, "waited": self.waited, "reason": self.reason, "before": self._before}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.best, self.waited, self.reason, self._before = (state[key] for key in ("best", "waited", "reason", "before"))
