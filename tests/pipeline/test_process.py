"""A process never outlives who started it, nor does anything that it started itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.process import Process, stop_all
from tests.pipeline.toy import ROOT, processes_with


def family(marker: str, *, before: str = "") -> list[str]:
    """A shell that starts a child and waits for it; `marker` is in both command lines."""
    return ["sh", "-c", f"{before} sh -c 'echo ready; exec sleep {marker}'; echo not reached"]


def wait_until_gone(marker: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while processes_with(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(marker) == []


def test_lines_come_as_they_are_printed_and_the_exit_status_after_them(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo one; printf '10%%\\r20%%\\n'; echo two >&2; exit 7"], cwd=tmp_path, env=os.environ)
    assert list(process.lines()) == ["one", "20%", "two"]
    assert process.wait() == 7


def test_a_signal_that_ended_it_shows_in_the_exit_status(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "kill -9 $$"], cwd=tmp_path, env=os.environ)
    assert process.wait() == 128 + signal.SIGKILL


def test_stopping_ends_the_children_too(tmp_path: Path) -> None:
    process = Process(family("3601.25"), cwd=tmp_path, env=os.environ)
    assert next(process.lines()) == "ready"
    process.stop()
    assert processes_with("3601.25") == []


def test_stop_all_ends_every_process(tmp_path: Path) -> None:
    processes = [Process(family("3602.25"), cwd=tmp_path, env=os.environ) for _ in range(2)]
    for process in processes:
        assert next(process.lines()) == "ready"
    stop_all()
    assert processes_with("3602.25") == []


@pytest.mark.full
def test_what_ignores_an_interrupt_is_terminated(tmp_path: Path) -> None:
    process = Process(family("3603.25", before="trap '' INT;"), cwd=tmp_path, env=os.environ)
    assert next(process.lines()) == "ready"
    started = time.monotonic()
    process.stop()
    assert processes_with("3603.25") == []
    assert 4 < time.monotonic() - started < 9


def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from pipeline.process import Process
process = Process({family("3604.25")!r}, cwd=Path("."), env=os.environ)
print(next(process.lines()), flush=True)
process.wait()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    assert processes_with("sleep 3604.25")
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until_gone("3604.25", seconds=5)
