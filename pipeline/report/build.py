"""From the files of a run to the folder of its report."""

from __future__ import annotations

from pathlib import Path

from pipeline.report.config import ReportConfig
from pipeline.report.data import read_run
from pipeline.report.page import render
from pipeline.report.plots import draw

PAGE = "index.html"


def build(root: Path, out: Path, config: ReportConfig) -> None:
    """Write the report of the run in `root`: ``index.html`` and its pictures, for README files and ``dvc plots show``.

    Args:
        root: the workspace, with ``params.yaml`` and ``data/``.
        out: an existing folder.
        config: section ``report``.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    run = read_run(root)
    (out / PAGE).write_text(render(run, config), encoding="utf-8", newline="\n")
    for name, picture in draw(run, config).items():
        (out / name).write_bytes(picture)
