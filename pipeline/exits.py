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

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from sae.config import SaeError

PREFIX = "error: "
INDENT = " " * len(PREFIX)  # in front of a message's further lines


class Terminated(BaseException):
    """SIGTERM, as an exception: what is running gets the same chance to clean up as with Ctrl-C."""


def exit_status(work: Callable[[], int | None], *, on_interrupt: str | None = None) -> int:
    """Do `work` and turn how it ended into an exit status, with a message on stderr where one is due.

    Args:
        work: returns an exit status; None counts as 0.
        on_interrupt: what to tell a user who pressed Ctrl-C; None says nothing (a stage leaves that to who started it).
    """
    try:
        with sigterm_raises():
            return work() or 0
    except SaeError as error:
        print(format_error(error), file=sys.stderr, flush=True)
        return error.exit_code
    except (KeyboardInterrupt, Terminated) as reason:
        if on_interrupt is not None:
            print(on_interrupt, file=sys.stderr, flush=True)
        return 128 + (signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGTERM)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside the block, SIGTERM raises `Terminated` in the main thread."""

    def handler(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def format_error(error: SaeError) -> str:
    """`error: …`; further lines of the message are indented below the first."""
    return PREFIX + str(error).replace("\n", "\n" + INDENT)


def find_error(lines: Sequence[str]) -> str | None:
    """The message of the last error that `format_error` wrote among `lines`; None if there is none."""
    starts = [i for i, line in enumerate(lines) if line.startswith(PREFIX)]
    if not starts:
        return None
    message = [lines[starts[-1]].removeprefix(PREFIX)]
    for line in lines[starts[-1] + 1 :]:
        if not line.startswith(INDENT):
            break
        message.append(line.removeprefix(INDENT))
    return "\n".join(message)
