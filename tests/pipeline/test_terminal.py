"""The terminal shows the stages' lines and the summary; Prefect's own account stays in the run's log."""

from __future__ import annotations

import io
import logging

from pipeline.terminal import Terminal, shown


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
