"""What became of points: one small file for each, by key, so that a point is done once, whichever sweep it belongs to."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.sections import read_yaml
from pipeline.stage import WORK
from pipeline.sweeps.git import experiment_ref, git
from pipeline.sweeps.workspace import cache_dir

METRICS = {"evaluation": "data/evaluation/metrics.json", "train": "data/train/metrics.json"}


@dataclass(frozen=True)
class Record:
    """A point that ended.

    Attributes:
        key: of the point; `name`, `index` and `values` as there.
        sweep: id of the sweep that ran it.
        state: `done` or `failed`.
        stages: for each, what DVC did and seconds.
        metrics: the files of `METRICS`, flattened: `evaluation.loss.original`.
        base: commit that the experiment stands on, and its own `commit`.
        outputs: hashes of what the stages made, as DVC's cache knows them.
        bytes: their size.
        remote: the DVC remote that they are in too, if they are.
        seconds: from beginning to end.
        error: one line, if it failed.
    """

    key: str
    name: str
    index: int
    values: dict[str, Any]
    sweep: str
    state: str
    stages: list[tuple[str, str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    base: str = ""
    commit: str = ""
    outputs: list[str] = field(default_factory=list)
    bytes: int = 0
    remote: str = ""
    seconds: float = 0.0
    error: str = ""


class Records:
    """Those of a project.

    Args:
        root: the project.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / WORK / "points"
        self._cache = cache_dir(root)
        self._refs: dict[str, str] | None = None
        self._whole: set[str] = set()

    def get(self, key: str) -> Record | None:
        """What is known of a point."""
        path = self.folder / f"{key}.json"
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):  # written by another version: as if it were not there
            return None

    def put(self, record: Record) -> None:
        """Write one down."""
        _write(self.folder / f"{record.key}.json", asdict(record))
        self._refs = None

    def put_shared(self, upstream: str, stages: Sequence[tuple[str, str, float]], outputs: list[str]) -> None:
        """Write down that what points share has been made: its stages as in `Record`, and hashes of what they made."""
        _write(self._shared(upstream), {"stages": stages, "outputs": outputs})

    def is_shared(self, upstream: str) -> bool:
        """Whether what points share has been made and is still in the cache."""
        try:
            outputs = json.loads(self._shared(upstream).read_text(encoding="utf-8"))["outputs"]
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return False
        return all(map(self._is_cached, outputs))

    def _shared(self, upstream: str) -> Path:
        return self.root / WORK / "shared" / f"{upstream}.json"

    def every(self) -> list[Record]:
        """All, in no order that means anything."""
        return [record for path in sorted(self.folder.glob("*.json")) if (record := self.get(path.stem)) is not None]

    def is_done(self, key: str) -> bool:
        """Whether a point is done and all of it is still there: its experiment, and in the cache what it made."""
        record = self.get(key)
        if record is None or record.state != "done":
            return False
        ref = experiment_ref(record.base, record.name)
        if record.commit != self._experiments().get(ref) and record.commit != self._experiments(anew=True).get(ref):
            return False
        return bool(record.remote) or all(map(self._is_cached, record.outputs))

    def _is_cached(self, digest: str) -> bool:
        """Whether DVC's cache has a file, or a folder and all that is in it."""
        path = self._cache / "files/md5" / digest[:2] / digest[2:]
        if not digest.endswith(".dir"):
            return path.exists()
        if digest not in self._whole:  # many points share their activations, which are many files
            try:
                files = json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, json.JSONDecodeError):
                return False
            if not all(self._is_cached(file["md5"]) for file in files):
                return False
            self._whole.add(digest)
        return True

    def _experiments(self, *, anew: bool = False) -> dict[str, str]:
        known = self._refs  # another thread may set it to None
        if known is None or anew:  # another process may have added some
            listed = git(self.root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
            self._refs = known = dict(line.split() for line in listed)
        return known


def _write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}")
    fresh.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def read_metrics(root: Path) -> dict[str, float]:
    """The numbers that a workspace's stages measured, flat."""
    found: dict[str, float] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = value

    for name, path in METRICS.items():
        if (root / path).exists():
            walk(json.loads((root / path).read_text()), name)
    return found


def read_outputs(root: Path, stages: Sequence[str] | None = None) -> tuple[list[str], int]:
    """Hashes and bytes of what a workspace's stages made, or some of them, from dvc.lock."""
    every = read_yaml(root / "dvc.lock").get("stages", {})
    outs = [out for name, stage in every.items() if stages is None or name in stages for out in stage.get("outs") or []]
    return [str(out["md5"]) for out in outs if "md5" in out], sum(int(out.get("size", 0)) for out in outs)
