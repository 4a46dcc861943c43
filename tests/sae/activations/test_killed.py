"""A capture that is killed by SIGKILL at any moment, and started again, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sae.activations.stores import digests

ROOT = Path(__file__).parents[3]


def start(directory: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.sae.activations.killable", str(directory), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, bufsize=0)


def run_to_the_end(directory: Path) -> None:
    process = start(directory)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output.endswith(b"d")


def kill_once(directory: Path, rng: random.Random, *, in_file: bool) -> bool:
    """Start the capture and kill it after some batches, or at some point of the writing of some file.

    Returns whether it was within a file. A capture that ends before begins anew, so that there is always one to kill.
    """
    process = start(directory, "slow")
    assert process.stdout is not None
    letters, left = b"", rng.randint(1, 25) if in_file else rng.randint(1, 8)
    while left and (letter := process.stdout.read(1)):
        letters += letter
        left -= letter == (b"w" if in_file else b"b")
    time.sleep(rng.uniform(0, 0.01))
    process.kill()
    letters += process.communicate(timeout=60)[0]
    if letters.endswith(b"d"):
        shutil.rmtree(directory)
        return False
    return letters.endswith(b"w")


def killed_again_and_again(tmp_path: Path, kills: int, seed: int) -> int:
    """Kill a capture so often, let it end, and compare the store with an undisturbed one's. Returns kills within files."""
    rng = random.Random(seed)
    run_to_the_end(tmp_path / "whole")
    killed, within, rounds = 0, 0, 0
    while killed < kills:
        within += kill_once(tmp_path / "killed", rng, in_file=killed % 2 == 0)
        killed += 1
        if killed % 8 == 0 or killed == kills:  # it is brought to its end now and then
            run_to_the_end(tmp_path / "killed")
            assert digests(tmp_path / "killed") == digests(tmp_path / "whole")  # and nothing else lies about
            shutil.rmtree(tmp_path / "killed")
            rounds += 1
    assert rounds >= kills // 8
    return within


def test_killed_five_times(tmp_path: Path) -> None:
    assert killed_again_and_again(tmp_path, kills=5, seed=0) >= 1


@pytest.mark.full
def test_killed_fifty_times_and_often_within_a_file(tmp_path: Path) -> None:
    assert killed_again_and_again(tmp_path, kills=56, seed=1) >= 15
