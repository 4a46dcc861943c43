"""Axes: where a value lies between the ends, and which round values to mark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.report.formats import tick


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from `low` to `high`, both finite and in this order."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of `value`: 0 at the low end, 1 at the high one."""
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
            return (value - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, at_most: int = 6) -> list[tuple[float, str]]:
        """Round values inside the scale, each as its place and label."""
        return [(self.at(value), tick(value)) for value in self.round_values(at_most)]

    def round_values(self, at_most: int = 6) -> list[float]:
        """The values that `ticks` marks."""
        return (_log_ticks if self.log else _linear_ticks)(self.low, self.high, at_most)


@dataclass(frozen=True)
class Marker:
    """A value worth a line of its own across the chart, such as a target."""

    value: float
    label: str


def value_axis(values: Iterable[float], log: bool) -> Axis:
    """The axis of a curve: from a round value below its finite values to one above."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if log:
        margin = (high / low) ** 0.04
        return Axis(low / margin, high * margin, log=True)
    if 0 < low < 0.5 * high:
        low = 0.0  # a curve that comes near to zero is read better against it
    if low == high:
        spread = abs(low) or 1.0
        low, high = low - 0.5 * spread, high + 0.5 * spread
    step = _round_step(high - low, 5)
    return Axis(step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9))


def count_axis(counts: Iterable[float]) -> Axis:
    """The axis of a histogram: from zero to just above the largest count."""
    largest = max(counts, default=0.0)
    return Axis(0.0, 1.06 * largest if largest > 0 else 1.0)


def _linear_ticks(low: float, high: float, at_most: int) -> list[float]:
    step = _round_step(high - low, at_most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, at_most: int) -> list[float]:
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [multiple * 10.0**decade for decade in decades for multiple in multiples]
        inside = [value for value in values if low <= value <= high]
        if len(inside) <= at_most:
            return inside
    return inside[:: math.ceil(len(inside) / at_most)]


def _round_step(span: float, at_most: int) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ that cuts `span` into fewer than `at_most` parts."""
    rough = span / max(at_most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
