"""What sweeps have left in a project, to look at and to clear away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.project import stage_names
from pipeline.stage import WORK
from pipeline.sweeps.git import git
from pipeline.sweeps.leases import is_leased
from pipeline.sweeps.plan import SNAPSHOTS, Plan, Point, load_plan, plan_path
from pipeline.sweeps.records import Records
from pipeline.sweeps.workspace import RUNS, cache_dir, remove_folder
from sae.config import Failure, InputError


def last_sweep(root: Path, wanted: str | None = None) -> Plan:
    """A sweep by its id, or the one that was run last.

    Raises:
        InputError: there is none.
    """
    if wanted is None:
        plans = sorted((root / RUNS / "sweeps").glob("*/plan.json"), key=lambda path: path.stat().st_mtime)
        if not plans:
            raise InputError("no sweep was run here yet", where=str(root), expected="python -m pipeline sweep")
        wanted = plans[-1].parent.name
    return load_plan(root, wanted)


def all_points(root: Path) -> list[Point]:
    """Every point that a record exists of, oldest sweep first."""
    records = Records(root).every()
    return [Point(record.index, record.name, record.key, "", record.values) for record in records]


@dataclass(frozen=True)
class Leftover:
    """A kind of thing that sweeps and runs leave behind.

    Attributes:
        name: of the option that removes it.
        about: what it is, and what is lost with it.
        paths: files and folders.
        remove: removes it.
    """

    name: str
    about: str
    paths: list[Path]
    remove: Callable[[], None]

    @property
    def bytes(self) -> int:
        """Its size; a file with several names is counted as one of them."""
        return sum(size_of(path) for path in self.paths)


def leftovers(root: Path) -> list[Leftover]:
    """All kinds. What is being worked on is in none of them."""
    # A clone is called as its lease, behind `shared-` where it is of what points share.
    clones = [
        path
        for path in sorted((root / RUNS / "clones").glob("*"))
        if path.is_dir() and not is_leased(root, path.name.removeprefix("shared-"))
    ]
    work = [path for stage in stage_names(root) for path in sorted((root / WORK / stage).glob("*"))]
    sweeps = [plan_path(root, "x").parent.parent]
    kinds: list[tuple[str, str, list[Path], Callable[[], None]]] = [
        ("clones", "clones of points that failed or were stopped, with their checkpoints", clones, lambda: _drop(clones)),
        ("work", "unfinished work of stages in this folder, checkpoints too", work, lambda: _drop(work)),
        ("sweeps", "plans, logs, tables and pictures of sweeps; their snapshots in git", sweeps, lambda: _forget(root)),
        ("cache", "of DVC's cache, what no commit, branch, tag or experiment needs", [cache_dir(root)], lambda: _collect(root)),
    ]
    return [Leftover(*kind) for kind in kinds]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    files = (file for file in path.rglob("*") if not file.is_symlink() and file.is_file()) if path.is_dir() else [path]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in (file.lstat() for file in files if file.exists())}.values())


def _drop(paths: Iterable[Path]) -> None:
    for path in paths:
        remove_folder(path)


def _forget(root: Path) -> None:
    shutil.rmtree(root / RUNS / "sweeps", ignore_errors=True)
    for ref in git(root, "for-each-ref", "--format=%(refname)", SNAPSHOTS).splitlines():
        git(root, "update-ref", "-d", ref)


def _collect(root: Path) -> None:
    options = ["--workspace", "--all-branches", "--all-tags", "--all-commits", "--all-experiments", "--force"]
    done = subprocess.run([sys.executable, "-m", "dvc", "gc", *options], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"dvc gc failed: {done.stderr.strip()}", where=str(root))
