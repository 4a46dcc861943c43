"""What a run shows on the terminal: the stages' own lines and the summary, not Prefect's account of itself.

One log, two views. A record that is made for the terminal says so (`extra=shown(…)`); Prefect's handler for its API sends
every record to the server, so the run's page in the UI has the rest.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from typing import TextIO

from pipeline.progress import bar

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def shown(stage: str | None = None) -> dict[str, object]:
    """The `extra` of a log record that the terminal shows, behind the name of the stage that it belongs to."""
    return {"on_terminal": True, "stage": stage}


class LiveLine:
    """The last line of a terminal, drawn over again while a stage goes on. Draws nothing where there is no terminal.

    Args:
        stream: stdout by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_drawn = False

    def draw(self, stage: str, line: str, share: float) -> None:
        """Show a line of progress with its bar."""
        if self._stream.isatty():
            columns = shutil.get_terminal_size().columns
            text = f"{stage} {bar(share)} {line.removeprefix(f'{stage}: ')}"
            print(f"\r\x1b[2K{text[: columns - 1]}", end="", file=self._stream, flush=True)
            self.is_drawn = True

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self.is_drawn:
            print("\r\x1b[2K", end="", file=self._stream, flush=True)
            self.is_drawn = False


live_line = LiveLine()


class Terminal(logging.Handler):
    """Writes what is made for the terminal, and every library's warnings.

    Args:
        width: of the column with the stages' names.
        show_link: also show where in the UI the run can be seen.
        stream: stdout by default.
    """

    def __init__(self, width: int = 0, *, show_link: bool = False, stream: TextIO | None = None) -> None:
        super().__init__()
        self._width = width
        self._show_link = show_link
        self._stream = stream or sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record if it is for the terminal."""
        text = self._text(record)
        if text is None:
            return
        try:
            live_line.clear()
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:  # `… | head`: nobody reads on, which is no reason to end a training
            self._stream = open(os.devnull, "w")  # noqa: SIM115 – for the rest of the process
        except Exception:
            self.handleError(record)

    def _text(self, record: logging.LogRecord) -> str | None:
        message = record.getMessage()
        if getattr(record, "on_terminal", False):
            stage = getattr(record, "stage", None)
            # A stage's last line begins with its name, for those who run it without us.
            return message if stage is None else f"{stage:<{self._width}} | {message.removeprefix(f'{stage}: ')}"
        if record.name in _RUN_LOGGERS or record.name.startswith(tuple(f"{name}." for name in _RUN_LOGGERS)):
            return message if self._show_link and message.startswith("View at ") else None
        return f"{record.levelname.lower()}: {record.name}: {message}" if record.levelno >= logging.WARNING else None


def use_terminal(terminal: Terminal) -> None:
    """Put `terminal` in the place of the handler that Prefect gave the root logger when it was imported."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(terminal)
