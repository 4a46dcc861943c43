"""The terminal shows the stages' lines and the summary; Prefect's own account stays in the run's log."""

from __future__ import annotations

import io
import logging

import pytest

from pipeline.progress import Progress, bar, share_done
from pipeline.terminal import LiveLine, Terminal, shown


def printed(name: str, level: int, message: str, *, extra: dict[str, object] | None = None, show_link: bool = False) -> str:
    stream = io.StringIO()
    record = logging.getLogger(name).makeRecord(name, level, __file__, 1, message, (), None, extra=extra)
    Terminal(width=5, show_link=show_link, stream=stream).emit(record)
    return stream.getvalue()


def test_a_stages_line_stands_behind_its_name() -> None:
    assert printed("prefect.task_runs", logging.INFO, "step 10", extra=shown("train")) == "train | step 10\n"
    assert printed("prefect.task_runs", logging.INFO, "train: 100 steps", extra=shown("train")) == "train | 100 steps\n"


def test_a_line_of_no_stage_stands_alone() -> None:
    assert printed("prefect.flow_runs", logging.INFO, "total", extra=shown()) == "total\n"


def test_what_prefect_says_about_the_run_is_not_shown() -> None:
    assert printed("prefect.flow_runs", logging.INFO, "Beginning flow run 'x'") == ""
    assert printed("prefect.task_runs", logging.ERROR, "Task run failed with state: Failed") == ""


def test_the_link_to_the_ui_is_shown_if_there_is_a_ui() -> None:
    link = "View at http://127.0.0.1:4200/runs/flow-run/1"
    assert printed("prefect.flow_runs", logging.INFO, link) == ""
    assert printed("prefect.flow_runs", logging.INFO, link, show_link=True) == link + "\n"


def test_warnings_of_libraries_are_shown() -> None:
    assert printed("prefect.client", logging.WARNING, "slow") == "warning: prefect.client: slow\n"
    assert printed("prefect.client", logging.INFO, "chat") == ""


def test_a_closed_pipe_does_not_end_the_run() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    terminal = Terminal(stream=Closed())
    record = logging.makeLogRecord({"msg": "step 10"} | shown("train"))
    terminal.emit(record)
    terminal.emit(record)


class FakeTerminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_drawn_over_again() -> None:
    stream = FakeTerminal()
    line = LiveLine(stream)
    line.draw("train", "train: 500 of 2,000 steps, 25/s, 60 s left", 0.25)
    line.draw("train", "train: 1,000 of 2,000 steps, 25/s, 40 s left", 0.5)
    line.clear()
    assert "\n" not in stream.getvalue()
    _, first, second, cleared = stream.getvalue().split("\r\x1b[2K")
    assert first == f"train {bar(0.25)} 500 of 2,000 steps, 25/s, 60 s left"
    assert second == f"train {bar(0.5)} 1,000 of 2,000 steps, 25/s, 40 s left"
    assert cleared == ""


def test_a_file_gets_no_drawing() -> None:
    stream = io.StringIO()
    line = LiveLine(stream)
    line.draw("train", "train: 1 of 2 steps, 1/s", 0.5)
    line.clear()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("train: 500 of 2,000 steps, 25/s, 60 s left", 0.25),
        ("tokens: 1,100,010 of 1,100,000 tokens, 5/s", 1.0),
        ("tokens: train 1,000,048 tokens in 7,876 sequences of 128", None),
    ],
)
def test_lines_of_progress_are_told_from_others(line: str, share: float | None) -> None:
    assert share_done(line) == share


def test_what_a_stage_prints_is_read_as_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_PROGRESS_SECONDS", "0")
    with Progress("train", 2000, "steps") as progress:
        progress(500)
    (printed,) = capsys.readouterr().out.splitlines()
    assert share_done(printed) == 0.25
