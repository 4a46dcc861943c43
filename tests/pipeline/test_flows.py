"""What stands around the stages of a run: one run at a time, and a table at the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.flows import only_run_in, summary
from sae.config import Failure


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        only_run_in(tmp_path),
        pytest.raises(Failure, match=rf"another run is going on here \(process {os.getpid()}\)"),
        only_run_in(tmp_path),
    ):
        pass
    with only_run_in(tmp_path):  # and free again afterwards
        pass


def test_the_summary_is_a_table_that_ends_with_the_total() -> None:
    assert summary([("inputs", "Ran", 1.25), ("activations", "Unchanged", 0.91)]).splitlines() == [
        "stage        outcome     seconds",
        "inputs       ran             1.2",
        "activations  unchanged       0.9",
        "total                        2.2",
    ]
