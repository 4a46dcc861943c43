"""A stage that is told to stop may save first, within its grace time and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.stopping import StopRequest
from tests.pipeline.toy import ROOT

# A stage that works until it is told to stop, and needs a moment to save.
STAGE = """
import sys, time
from pipeline.exits import exit_status
from pipeline.stopping import StopRequest

def work():
    with StopRequest({grace}) as stop:
        print("ready", flush=True)
        while not ({asks} and stop()):
            time.sleep(0.01)
        time.sleep({saving})
        print("saved", flush=True)
        raise stop.reason()

sys.exit(exit_status(work))
"""


@contextmanager
def stage(*, grace: float = 30, asks: bool = True, saving: float = 0, shell: str = "") -> Iterator[subprocess.Popen[str]]:
    """The stage, once it is at work."""
    command = [sys.executable, "-c", STAGE.format(grace=grace, asks=asks, saving=saving)]
    if shell:
        command = ["sh", "-c", f'{shell} exec "$0" "$@"', *command]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_told_to_stop_saves_first(signum: int, status: int) -> None:
    with stage(saving=0.2) as process:
        process.send_signal(signum)
        assert process.communicate(timeout=20) == ("saved\n", "")
        assert process.returncode == status


def test_a_stage_that_does_not_ask_is_ended_after_the_grace_time() -> None:
    with stage(grace=0.5, asks=False) as process:
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        assert (process.returncode, output) == (143, "")
        assert 0.4 < time.monotonic() - started < 10


def test_a_save_that_takes_too_long_is_cut_off() -> None:
    with stage(grace=0.5, saving=3600) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == ""
        assert process.returncode == 143


def test_a_second_signal_does_not_wait() -> None:
    with stage(asks=False) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals that are pending together may be handled in either order
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 143


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    with stage(shell="trap '' INT;") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == "saved\n"
        assert process.returncode == 143


def test_a_signal_after_the_last_question_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest(30):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_and_the_clock_are_gone_after_the_block() -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest(0.2)

    def work() -> None:
        with stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert {signum: signal.getsignal(signum) for signum in before} == before
    time.sleep(0.4)  # a clock that still ran would end this process


def test_without_a_signal_nothing_happens() -> None:
    with StopRequest(0.1) as stop:
        time.sleep(0.2)
        assert not stop()
