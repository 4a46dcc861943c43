"""Progress of a long stage: a bar on a terminal, a line now and then anywhere else.

A stage that a flow runs has no terminal. It prints its lines more often then, if whoever reads them draws the bar.
"""

from __future__ import annotations

import os
import re
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
SECONDS_VARIABLE = "SAE_PROGRESS_SECONDS"  # set in the environment by whoever wants lines at another rate

_LINE = re.compile(r"\w+: ([\d,]+) of ([\d,]+) ")
_BAR_WIDTH = 24


def share_done(line: str) -> float | None:
    """How far a line of progress says that its stage is, from 0 to 1; None if it is another line."""
    match = _LINE.match(line)
    if match is None:
        return None
    done, total = (int(number.replace(",", "")) for number in match.groups())
    return min(1.0, done / total) if total else 1.0


def bar(share: float) -> str:
    """A bar of fixed width."""
    filled = round(share * _BAR_WIDTH)
    return "█" * filled + "░" * (_BAR_WIDTH - filled)


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
        self._seconds_between = float(os.environ.get(SECONDS_VARIABLE, SECONDS_BETWEEN_LINES))
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
        elif time.monotonic() - self._printed >= self._seconds_between:
            self._printed = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        """How far it is, how fast it goes, and how long it will take yet."""
        left = f", {(self.total - self.done) / self.rate:,.0f} s left" if self.rate > 0 else ""
        return f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {self.rate:,.{0 if self.rate >= 10 else 1}f}/s{left}"

    @property
    def rate(self) -> float:
        """Units a second, since the start of this process."""
        return (self.done - (self._first or 0)) / max(self.seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started
