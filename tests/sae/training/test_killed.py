"""A run that is killed by SIGKILL at any moment, and started again, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ("state/state.safetensors", "state/state.json", "sae/model.safetensors", "sae/config.json")


def start(directory: Path, steps: int, *more: str) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.sae.training.killable", str(directory), str(steps), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, bufsize=0)


def run_to_the_end(directory: Path, steps: int) -> None:
    process = start(directory, steps)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert output.endswith(b"d")


def kill_once(directory: Path, steps: int, rng: random.Random, *, in_save: bool) -> bool:
    """Start the run and kill it after some steps, or at some point of some save. Returns whether it was within a save."""
    process = start(directory, steps, "slow")
    assert process.stdout is not None
    letters, wanted, left = b"", b"p" if in_save else b"s", rng.randint(1, 30) if in_save else rng.randint(2, 5)
    while left and (letter := process.stdout.read(1)):
        letters += letter
        # The first letter is of the steps that were done before.
        left -= letter in wanted and len(letters) > 1
    assert not left, f"the run ended by itself after {letters!r}"
    time.sleep(rng.uniform(0, 0.01 if in_save else 0.05))
    process.kill()
    letters += process.communicate(timeout=60)[0]
    assert process.returncode < 0, "it was to be killed"
    return letters.replace(b"s", b"")[-1:] in (b"b", b"p")


def killed_again_and_again(tmp_path: Path, kills: int, steps: int, seed: int) -> int:
    """Kill a run so often, let it end, and compare all that it leaves with an undisturbed one's. Returns kills within saves."""
    rng = random.Random(seed)
    within = sum(kill_once(tmp_path / "killed", steps, rng, in_save=number % 2 == 0) for number in range(kills))
    run_to_the_end(tmp_path / "killed", steps)
    run_to_the_end(tmp_path / "whole", steps)
    different = [name for name in FILES if (tmp_path / "killed" / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()]
    assert different == []
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["sae", "state"]  # nothing is left lying about
    return within


def test_killed_five_times(tmp_path: Path) -> None:
    assert killed_again_and_again(tmp_path, kills=5, steps=40, seed=0) >= 1


@pytest.mark.full
def test_killed_fifty_times_and_often_within_a_save(tmp_path: Path) -> None:
    assert killed_again_and_again(tmp_path, kills=52, steps=240, seed=1) >= 10
