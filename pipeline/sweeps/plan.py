"""What a sweep is to do: its points, which of them are done, and what they share; made before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.params import Params, check_params
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.sweeps.keys import Inputs, Keys, with_values
from pipeline.sweeps.workspace import RUNS
from sae.config import InputError, nearest_name, parse_config
from sae.sweeps import SweepConfig

SNAPSHOTS = "refs/sae/sweeps"
MAX_LABEL = 80  # bytes


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        index: its place, which does not change.
        name: readable, and unique for these parameters, inputs and code.
        key: hash of these; see `keys`.
        upstream: key of what it shares with others.
        values: by dotted path, what differs from params.yaml.
    """

    index: int
    name: str
    key: str
    upstream: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        id: the same for the same points.
        points: in order.
        retries: how often a failed point is tried again, and after how many seconds (`retry_delay`).
        commit: the snapshot that it runs, and the commit which that is `base`d on; empty until it starts.
    """

    id: str
    points: list[Point]
    retries: int
    retry_delay: float
    commit: str = ""
    base: str = ""

    @property
    def ref(self) -> str:
        """The ref that names the snapshot."""
        return f"{SNAPSHOTS}/{self.id}"

    def save(self, root: Path) -> None:
        """Write it where `load_plan` finds it."""
        path = plan_path(root, self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{uuid.uuid4().hex[:8]}")  # the same sweep may be begun twice at once
        fresh.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)


def plan_path(root: Path, sweep: str) -> Path:
    """The file of a plan."""
    return root / RUNS / "sweeps" / sweep / "plan.json"


def load_plan(root: Path, sweep: str) -> Plan:
    """A plan that was saved.

    Raises:
        InputError: there is none with this id.
    """
    path = plan_path(root, sweep)
    if not path.exists():
        known = sorted(p.parent.name for p in (root / RUNS / "sweeps").glob("*/plan.json"))
        expected, nearest = f"one of {', '.join(known) or 'none yet'}", nearest_name(sweep, known)
        raise InputError("no such sweep", where=str(root / RUNS), found=sweep, expected=expected, nearest=nearest)
    return plan_of(json.loads(path.read_text(encoding="utf-8")))


def plan_of(data: Mapping[str, Any]) -> Plan:
    """The plan that was saved as this data."""
    return Plan(**{**data, "points": [Point(**point) for point in data["points"]]})


def make_plan(root: Path, sweep: SweepConfig | None = None) -> Plan:
    """Expand a sweep and check each of its points.

    Args:
        root: the project; the process is to be in it.
        sweep: in place of the section in params.yaml.

    Raises:
        InputError: nothing is swept, or a point is wrong: an unknown path, a value that its field does not take.
    """
    base = read_yaml(root / PARAMS_FILE)
    config = sweep or parse_config(SweepConfig, base.get("sweep"), "sweep")
    full = _with_defaults(base)
    _check_conditions(config, full)
    overlays = config.overlays(base if full is None else full.model_dump(mode="json", exclude={"sweep"}))
    if not any(overlays):
        raise InputError("nothing is swept", where="sweep", expected="axes, such as `grid: {train.l0_target: [16, 32]}`")
    _check_paths(overlays, base)
    keys, inputs = Keys(root), Inputs(root)
    labels = _labels(overlays)
    points = []
    for index, overlay in enumerate(overlays):
        params = with_values(base, overlay)
        try:
            checked = check_params(params)
        except InputError as error:
            raise InputError(f"point {index} ({labels[index]}) of the sweep: {error}") from None
        values = {path: _canonical(value, checked, path) for path, value in overlay.items()}
        params = with_values(base, values)
        fingerprints = inputs(params)
        key = keys.point(params, fingerprints)
        points.append(Point(index, f"{labels[index]}-{key[:8]}", key, keys.upstream(params, fingerprints), values))
    seen: dict[str, Point] = {}
    for point in points:
        if (other := seen.setdefault(point.key, point)) is not point:
            raise InputError(f"points {other.index} and {point.index} are the same", where="sweep", found=point.values)
    identity = hashlib.sha256("".join(point.key for point in points).encode()).hexdigest()[:8]
    return Plan(identity, points, config.retries, config.retry_delay)


def swept_paths(points: Sequence[Point]) -> list[str]:
    """The paths that differ between points, in the order in which they are met."""
    paths = dict.fromkeys(path for point in points for path in point.values)
    return [path for path in paths if len({repr(point.values.get(path)) for point in points}) > 1 or len(points) == 1]


def short_names(paths: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """The last words of each path that tell it from the others, and from names that are taken."""
    names = {}
    for path in paths:
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if name not in taken and sum(f".{other}".endswith(f".{name}") for other in paths) == 1:
                break
        names[path] = name
    return names


def _with_defaults(base: Mapping[str, Any]) -> Params | None:
    """params.yaml with what it leaves out, for conditions; None if it is wrong, which its points may be right about."""
    try:
        return check_params({name: section for name, section in base.items() if name != "sweep"})
    except InputError:
        return None


def _check_conditions(config: SweepConfig, full: Params | None) -> None:
    """A path that is nowhere would never have a value, and its branch no points."""
    for index, branch in enumerate(config.when):
        for path in branch.if_:
            at: Any = full
            parts = path.split(".")
            for depth, part in enumerate(parts):
                if isinstance(at, BaseModel) and part not in type(at).model_fields:
                    known = [".".join([*parts[:depth], name]) for name in type(at).model_fields]
                    nearest = nearest_name(path, known)
                    raise InputError("there is no such key", where=f"sweep.when.{index}.if", found=path, nearest=nearest)
                at = at.get(part) if isinstance(at, Mapping) else getattr(at, part, None)


def _check_paths(overlays: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> None:
    """Only sections that stages read; the keys below are checked with their values."""
    sections = [name for name in Params.model_fields if name != "sweep"]
    for path in dict.fromkeys(path for overlay in overlays for path in overlay):
        section, _, rest = path.partition(".")
        if section not in sections or not rest:
            nearest = nearest_name(section, sections)
            expected = f"section.key, with one of {', '.join(sections)}"
            near = f"{nearest}.{rest or '…'}" if nearest else None
            raise InputError("this is no key of a section", where="sweep", found=path, expected=expected, nearest=near)


def _canonical(value: Any, checked: Params, path: str) -> Any:
    """The value as its field has it, so that 16 and "16" are one; whole numbers stay as they were typed."""
    at: Any = checked
    for part in path.split("."):
        at = at.get(part) if isinstance(at, Mapping) else getattr(at, part, None)
    simple = isinstance(at, bool | int | float | str) and isinstance(value, bool | int | float | str)
    if not simple or (isinstance(value, int) and isinstance(at, float)) or isinstance(value, bool):
        return value
    return at


def _labels(overlays: Sequence[Mapping[str, Any]]) -> list[str]:
    """Readable names: the values that differ, behind the short names of their paths."""
    paths = list(dict.fromkeys(path for overlay in overlays for path in overlay))
    varied = [path for path in paths if len(overlays) == 1 or len({repr(overlay.get(path)) for overlay in overlays}) > 1]
    names = short_names(varied)
    labels = []
    for overlay in overlays:
        parts = [f"{names[path]}-{_written(overlay[path])}" for path in varied if path in overlay]
        label = re.sub(r"[^\w.+-]+", "-", "_".join(parts)).strip("-.") or "base"
        labels.append(re.sub(r"\.\.+|\.lock\b", "-", label).encode()[:MAX_LABEL].decode(errors="ignore").strip("-."))
    return labels


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_written(item)}" for key, item in value.items())
    return "-".join(map(_written, value)) if isinstance(value, list | tuple) else str(value)
