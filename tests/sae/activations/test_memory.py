"""Memory does not grow with the split, neither of capturing nor of loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sae.activations.store import Store

ROOT = Path(__file__).parents[3]


def measured(what: str, directory: Path, sequences: int) -> int:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.sae.activations.memory", what, str(directory), str(sequences)]
    # Freed memory goes back at once, so that what is measured is what is held.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return int(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_anonymous_memory_of_eight_times_the_split_is_the_same(tmp_path: Path) -> None:
    for what in ("capture", "load"):
        small, large = (measured(what, tmp_path / str(sequences), sequences) for sequences in (256, 2048))
        assert large < small + 8_000_000, what  # a shard is 2 MB; the split grows by 59
    sizes = [sum(shard.bytes for shard in Store(tmp_path / n / "store").manifest.shards) for n in ("256", "2048")]
    assert sizes[1] > 60_000_000
    assert sizes[1] > 7.9 * sizes[0]
