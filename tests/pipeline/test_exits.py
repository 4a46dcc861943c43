"""One line that says what is wrong, and an exit status that says whose fault it was."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.exits import exit_status, find_error, format_error
from sae.config import Failure, InputError, SaeError


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(("error", "status"), [(InputError("wrong", where="train.lr"), 2), (Failure("disk full"), 1)])
def test_our_errors_are_one_line_and_an_exit_status(error: SaeError, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: raising(error)) == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_work_that_returns_nothing_has_succeeded() -> None:
    assert exit_status(lambda: None) == 0


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_how_to_go_on(signum: int, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        assert exit_status(lambda: os.kill(os.getpid(), signum), on_interrupt="go on like this") == status
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err.endswith("go on like this\n")


def test_a_written_error_is_found_again_with_all_its_lines() -> None:
    written = format_error(InputError("train.lr: wrong\ntrain.steps: wrong too")).splitlines()
    assert find_error(["error: an older one", "step 1", *written, "", "ERROR: failed to reproduce"]) == (
        "train.lr: wrong\ntrain.steps: wrong too"
    )
    assert find_error(["step 1"]) is None
