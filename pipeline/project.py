"""The project on disk: where its root is, what DVC needs there, and the order of the stages."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.sections import PARAMS_FILE, read_yaml
from sae.config import InputError, nearest_name

MARKERS = ("dvc.yaml", PARAMS_FILE)


def find_root(start: Path) -> Path:
    """The project that `start` lies in: the nearest folder, upwards, with a `dvc.yaml` and a `params.yaml`.

    Raises:
        InputError: there is none, or DVC could not work there; the message says what to do.
    """
    start = start.absolute()  # not resolved: a user's own path, with its links, is the one that messages should name
    if not start.is_dir():
        raise InputError("this folder does not exist", where=str(start))
    for folder in (start, *start.parents):
        if all((folder / marker).is_file() for marker in MARKERS):
            _check_repository(folder)
            return folder
    raise InputError(f"no {' and '.join(MARKERS)} here or in a folder above; change into the project, or name it with --root",
                     where=str(start))  # fmt: skip


def _check_repository(root: Path) -> None:
    """DVC works in a git repository (no commit is needed) that has a `.dvc` folder at the project's root."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise InputError(
            "this folder is no git repository, which DVC needs (an unpacked archive has none); `git clone` the project instead, "
            "or make it one: git init && git add --all && git -c user.name=me -c user.email=me@localhost commit -m Start",
            where=str(root),
        )
    if not (root / ".dvc").is_dir():
        raise InputError(
            "the folder .dvc is missing, which is part of the project; get it back: git checkout -- .dvc", where=str(root)
        )


def stage_names(root: Path) -> list[str]:
    """The stages of `dvc.yaml`, each after those whose outputs it reads, else in the order of the file.

    Raises:
        InputError: the file can't be read, or stages wait for each other.
    """
    stages = _read_stages(root / "dvc.yaml")
    outs = {name: _paths(stage, ("outs", "metrics", "plots")) for name, stage in stages.items()}
    reads = {name: _paths(stage, ("deps",)) for name, stage in stages.items()}
    waits_for = {
        name: {other for other in stages if other != name and any(_overlap(a, b) for a in reads[name] for b in outs[other])}
        for name in stages
    }
    order: list[str] = []
    while len(order) < len(stages):
        ready = [name for name in stages if name not in order and waits_for[name] <= set(order)]
        if not ready:
            stuck = [name for name in stages if name not in order]
            raise InputError(f"these stages read each other's outputs: {', '.join(stuck)}", where="dvc.yaml")
        order.append(ready[0])
    return order


def choose_stages(root: Path, wanted: Iterable[str] | None) -> list[str]:
    """The stages to run, in order: all of them, or those in `wanted`.

    Raises:
        InputError: a name that is no stage; the nearest is named.
    """
    known = stage_names(root)
    if wanted is None:
        return known
    chosen = list(wanted)
    for name in chosen:
        if name not in known:
            raise InputError("no such stage", where="stages", found=name, expected=f"some of {', '.join(known)}",
                             nearest=nearest_name(name, known))  # fmt: skip
    if not chosen:
        raise InputError("no stage is named", where="stages", expected=f"some of {', '.join(known)}")
    return [name for name in known if name in chosen]


def _read_stages(file: Path) -> Mapping[str, Mapping[str, Any]]:
    stages = read_yaml(file).get("stages")
    if not isinstance(stages, Mapping) or not all(isinstance(stage, Mapping) and "cmd" in stage for stage in stages.values()):
        raise InputError("holds no section `stages` of stages that each have a `cmd`", where=str(file))
    return stages


def _paths(stage: Mapping[str, Any], sections: Iterable[str]) -> list[str]:
    """Paths relative to the root. An entry is a path, or a mapping from one path to its options."""
    entries = [entry for section in sections for entry in stage.get(section) or ()]
    paths = (entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)
    return [posixpath.normpath(posixpath.join(stage.get("wdir") or ".", path)) for path in paths]


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies inside the other."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")
