"""A sweep on this machine, without a server: the plan, the points as they come, the table and the fronts."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.progress import share_done
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.sweeps.keys import value_at
from pipeline.sweeps.machines import machines_of
from pipeline.sweeps.plan import Plan, Point, swept_paths
from pipeline.sweeps.point import PointRunner
from pipeline.sweeps.records import Record, Records
from pipeline.sweeps.schedule import Schedule
from pipeline.sweeps.start import begin, undone
from pipeline.sweeps.table import Table, figures_text, save_results, table_of
from pipeline.sweeps.workspace import RUNS
from pipeline.terminal import live_line
from sae.config import Failure, SaeError

OUTPUTS = ("data/sae", "data/train", "data/evaluation", "data/report")


def show_plan(root: Path, plan: Plan, points: Sequence[Point], *, jobs: int, limit: int | None = None) -> list[Point]:
    """Say what a sweep would do; the points that are to do."""
    records = Records(root)
    todo = undone(records, points, machines_of(root))
    left = todo[:limit]
    shared = len({point.upstream for point in todo})
    _say(f"sweep {plan.id}: {len(points)} points, {len(points) - len(todo)} done already, {len(left)} to do")
    if left:
        activations = "one set of activations for all" if shared == 1 else f"{shared} sets of activations"
        seconds, size = _expected(root, records)
        time_text = f"about {_duration(seconds * math.ceil(len(left) / jobs))}" if seconds else "unknown before the first is done"
        size_text = f"about {len(left) * size / 1e6:,.0f} MB" if size else "unknown before the first is done"
        _say(f"  {activations}; {jobs} at a time; time {time_text}; disk {size_text}")
        threads = int(value_at(read_yaml(root / PARAMS_FILE), "run.threads") or 0)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if jobs * threads > cores:
            better = max(1, cores // jobs)
            _say(f"  {jobs} jobs of run.threads: {threads} share {cores} cores; run.threads: {better} is quicker here")
        free = shutil.disk_usage(root).free
        if size and len(left) * size > free:
            raise Failure("the disk is too small for this sweep", where=str(root), found=f"{free / 1e6:,.0f} MB free",
                          expected=f"{len(left) * size / 1e6:,.0f} MB")  # fmt: skip
    width = max(len(point.name) for point in points)
    for point in points if len(points) <= 40 else points[:40]:
        state = "done" if point not in todo else "to do" if point in left else "left out"
        values = ", ".join(f"{path}: {point.values[path]}" for path in swept_paths(points) if path in point.values)
        _say(f"  {point.index:>4}  {point.name:<{width}}  {state:<8}  {values}")
    if len(points) > 40:
        _say(f"  … and {len(points) - 40} more")
    return left


def run_sweep(root: Path, plan: Plan, points: Sequence[Point], todo: Sequence[Point], *, jobs: int) -> list[str]:
    """Run what is to do, and show the table of all; the names of the points that failed.

    Raises:
        KeyboardInterrupt: all that ran is stopped.
    """
    failed = []
    params = read_yaml(root / PARAMS_FILE)  # now, because a user may be in the middle of an edit when the sweep ends
    if todo:
        machines = machines_of(root)
        plan = begin(root, plan, machines)
        screen = Screen(len(todo), width=max(len(point.name) for point in todo))
        results = Schedule(plan, todo).run(PointRunner(root, plan, machines=machines), min(jobs, len(todo)), screen)
        live_line.clear()
        failed = [point.name for point in todo if isinstance(results.get(point.index), SaeError)]
    show_results(root, plan, points, params)
    return failed


def show_results(root: Path, plan: Plan, points: Sequence[Point], params: Mapping[str, Any]) -> Table:
    """Print the table and write it, with the picture of the fronts, into the sweep's folder."""
    table = table_of(root, points, params)
    folder = root / RUNS / "sweeps" / plan.id
    _say(f"\n{table.text()}\n")
    _say("* no other point has both a lower L0 and a lower FVU; + the same with more of the loss recovered")
    try:
        save_results(table, folder)
    except OSError as error:  # on a full disk; all that they show is in the records
        _say(f"table and picture could not be written: {error}")
        return table
    _say(f"table and picture: {folder.relative_to(root)}/table.parquet, fronts.png; dvc exp show lists the points")
    return table


class Screen:
    """Shows on the terminal how a sweep goes: a line for what ends, and one that moves.

    Args:
        total: number of points.
        width: of the column of names.
    """

    def __init__(self, total: int, width: int) -> None:
        self.total, self.width = total, width
        self.count = 0
        self.running: dict[int, str] = {}
        self.began = time.monotonic()

    def started(self, point: Point, shared: bool) -> None:
        """See `Watcher`."""
        self._line(point, "what the points share begins" if shared else "begins")

    def said(self, point: Point, line: str) -> None:
        """See `Watcher`."""
        if share_done(line) is not None:
            self.running[point.index] = line.partition(",")[0]
            text = "; ".join(f"{index} {line}" for index, line in sorted(self.running.items()))
            live_line.draw("sweep", f"{self.count}/{self.total} done; {text}", self.count / self.total)
        elif line.startswith(("error: ", "another ", "done already")):
            self._line(point, line)

    def retried(self, point: Point, error: SaeError, seconds: float) -> None:
        """See `Watcher`."""
        self._line(point, f"failed: {error}; again in {seconds:g} s")

    def ended(self, point: Point, result: Record | SaeError) -> None:
        """See `Watcher`."""
        self.count += 1
        self.running.pop(point.index, None)
        if isinstance(result, SaeError):
            self._line(point, f"failed: {result}")
            return
        shown = figures_text(result)
        self._line(point, f"done in {result.seconds:.0f} s" + (f": {shown}" if shown else ""))

    def _line(self, point: Point, text: str) -> None:
        live_line.clear()
        _say(f"{point.name:<{self.width}} | {text}")


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # `… | head`, or `> log` on a full disk: that nobody reads on is no reason to end a sweep
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the process


def _expected(root: Path, records: Records) -> tuple[float, float]:
    """Seconds and bytes of a point: the median of those that are done; of bytes, else what the workspace's own run made."""
    done = [record for record in records.every() if record.state == "done"]
    seconds = statistics.median(sum(s for _, _, s in record.stages) for record in done) if done else 0.0
    files = [file for out in OUTPUTS for file in (root / out).rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return seconds, float(size)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
