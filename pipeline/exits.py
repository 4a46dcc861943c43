"""How a process of ours ends: one line that says what is wrong, and an exit status that says whose fault it was.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | right input, but the work could not be finished |
| 2 | a user's mistake |
| 130, 143 | interrupted (Ctrl-C), terminated |

Anything else that is raised is a bug, and keeps its traceback. The same form is written by the stages and read again by
whoever started them (`find_error`), so that a mistake is reported once, however deep it was found.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType

from sae.config import SaeError

PREFIX = "error: "


class Terminated(BaseException):
    """SIGTERM, as an exception: what is running gets the same chance to clean up as with Ctrl-C."""


def exit_status(work: Callable[[], int | None], *, on_interrupt: str | None = None) -> int:
    """Do `work` and turn how it ended into an exit status, with a message on stderr where one is due.

    Args:
        work: returns an exit status; None counts as 0.
        on_interrupt: what to tell a user who pressed Ctrl-C; None says nothing (a stage leaves that to who started it).
    """
    try:
        with signals_raise(announce=on_interrupt is not None):
            return work() or 0
    except SaeError as error:
        print(format_error(error), file=sys.stderr, flush=True)
        return error.exit_code
    except (KeyboardInterrupt, Terminated) as reason:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience would only add a traceback: all is stopped
        if on_interrupt is not None:
            print(on_interrupt, file=sys.stderr, flush=True)
        return 128 + (signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGTERM)


@contextmanager
def signals_raise(*, announce: bool) -> Iterator[None]:
    """Inside the block, SIGTERM raises `Terminated` in the main thread, as SIGINT raises KeyboardInterrupt.

    Args:
        announce: say at once that Ctrl-C was heard; a stage that is writing takes a moment to end.
    """

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if announce:
            os.write(sys.stderr.fileno(), b"\nstopping; Ctrl-C again does not wait\n")  # print could be interrupted by itself
        raise KeyboardInterrupt

    handlers = {signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as for `… &` in a script
        handlers[signal.SIGINT] = interrupt
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def format_error(error: SaeError) -> str:
    """Its message with `error: ` before each line."""
    return "\n".join(PREFIX + line for line in str(error).splitlines())


def find_error(lines: Sequence[str]) -> str | None:
    """The message of the last error that was written in that form among `lines`; None if there is none."""
    after = max((i + 1 for i, line in enumerate(lines) if line.startswith(PREFIX)), default=0)
    message = list(takewhile(lambda line: line.startswith(PREFIX), reversed(lines[:after])))
    return "\n".join(line.removeprefix(PREFIX) for line in reversed(message)) or None
