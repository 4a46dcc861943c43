"""A signal to stop, as a question that a long stage asks between two steps, so that it can save its work first."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from pipeline.exits import Terminated


class StopRequest:
    """Inside the block, SIGINT and SIGTERM do not interrupt: they make the object true when it is called.

    A stage that asks it often enough ends by itself, in order. One that has not ended after the grace time is ended where
    it stands; what it saves it saves by rename, so the last whole checkpoint is there. A second signal interrupts at once.

    Args:
        grace: seconds from the signal to the end.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._signum: int | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        wanted = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for `… &` in a script
            wanted.append(signal.SIGINT)
        self._before = {signum: signal.signal(signum, self._request) for signum in wanted}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self._timer is not None:
            self._timer.cancel()
            if kind is None:  # it came after the last question
                raise self.reason()

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self._signum is not None

    def reason(self) -> BaseException:
        """What the signal would have raised."""
        return KeyboardInterrupt() if self._signum == signal.SIGINT else Terminated()

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            raise self.reason()
        self._signum = signum
        self._timer = threading.Timer(self.grace, os._exit, [128 + signum])
        self._timer.daemon = True
        self._timer.start()
