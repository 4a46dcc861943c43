"""Claims: several processes, on one machine or on several that share a disk, divide work among them without a server."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 0.1  # seconds between two looks at what others hold


class Claims:
    """Locks by number, all on one file.

    They are POSIX record locks, which the system drops when a process ends, however it ends, and which network file
    systems know too. They hold between processes, not between threads of one.

    Args:
        path: the file; it is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    @contextmanager
    def holding(self, number: int) -> Iterator[bool]:
        """Whether this process has the claim inside the block; another may hold it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)

    def work_off(self, numbers: Sequence[int], done: Callable[[int], bool], do: Callable[[int], None]) -> None:
        """Return when everything is done, by this process or by others.

        Args:
            numbers: of the pieces of work, each a claim.
            done: whether a piece is.
            do: does one; called while this process holds the claim on it.
        """
        left = list(numbers)
        while left:
            held_by_others = []
            for number in left:
                if done(number):
                    continue
                with self.holding(number) as mine:
                    if not mine:
                        held_by_others.append(number)
                    elif not done(number):
                        do(number)
            left = held_by_others
            if left:
                time.sleep(PATIENCE)
