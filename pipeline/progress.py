"""Progress of a long stage: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Call it with the number of units done since the last call.

    Args:
        label: what is being done.
        total: number of units.
        unit: what a unit is, in the plural.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._first: int | None = None
        self._started = self._printed = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", unit_scale=True, leave=False) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, units: int) -> None:
        if self._first is None:
            self._first = units  # what an earlier run had done does not count towards the rate
        self.done += units
        if self._bar is not None:
            self._bar.update(units)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        """How far it is, how fast it goes, and how long it will take yet."""
        elapsed = time.monotonic() - self._started
        rate = (self.done - (self._first or 0)) / elapsed if elapsed > 0 else 0.0
        left = f", {(self.total - self.done) / rate:,.0f} s left" if rate > 0 else ""
        return f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s{left}"

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started
