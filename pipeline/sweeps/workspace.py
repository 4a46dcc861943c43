"""The folder that a point runs in: a clone with the point's parameters, and the user's DVC cache."""

from __future__ import annotations

import configparser
import contextlib
import glob
import itertools
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.stage import WORK
from pipeline.sweeps.git import git, make_clone
from pipeline.sweeps.keys import outputs_of, set_values, value_at

RUNS = ".runs"
LOCAL_PATHS = ("subject.model", "train.start_from", "corpus.files.paths", "corpus.huggingface.dataset")


class Workspace:
    """A clone for one point. A second use of the same name finds unfinished work there.

    Args:
        root: the user's project.
        name: of the folder in `.runs/clones`.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.home = root
        top = Path(git(root, "rev-parse", "--show-toplevel"))
        self.repository = top
        self.clone = root / RUNS / "clones" / name
        self.root = self.clone / root.resolve().relative_to(top.resolve())

    def make(self, commit: str, values: Mapping[str, Any], remote: str | None = None) -> None:
        """Bring the clone to a snapshot and write the point's parameters.

        Args:
            commit: the snapshot.
            values: by dotted path.
            remote: a DVC remote to use where none is named.
        """
        make_clone(self.repository, self.clone, commit)
        # DVC's list of who reads and writes what, maybe of one that was killed, or cut short: whoever calls this is alone here.
        (self.root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
        self._configure(remote)
        write_values(self.root / PARAMS_FILE, values)
        self._link_ignored()
        hashes, copy = self.home / WORK / "hashes.json", self.root / WORK / "hashes.json"
        if hashes.exists() and not copy.exists():  # else the interpreter's library is read anew for each point
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hashes, copy)

    def remove(self) -> None:
        """Drop the folder. What counts is in the cache and in the experiment."""
        remove_folder(self.clone)

    def _configure(self, remote: str | None) -> None:
        """DVC's settings of the user's folder, with the cache there; its small change stays in the clone."""
        config = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error):
            config.read(self.home / ".dvc/config.local", encoding="utf-8")
        values = {("cache", "dir"): str(cache_dir(self.home)), ("core", "site_cache_dir"): str(self.root / ".dvc/tmp/site")}
        if remote is not None:
            values["core", "remote"] = remote
        for name, about in dvc_config(self.home)["remote"].items():
            values[f"'remote \"{name}\"'", "url"] = about["url"]  # where it was relative to the user's folder
        for (section, key), value in values.items():
            if not config.has_section(section):
                config.add_section(section)
            config.set(section, key, value)
        with (self.root / ".dvc/config.local").open("w", encoding="utf-8") as file:
            config.write(file)

    def _link_ignored(self) -> None:
        """Link models and texts that lie in the user's folder and that git ignores, so that no snapshot holds them."""
        params = read_yaml(self.root / PARAMS_FILE)
        outputs = [Path(out) for out in outputs_of(read_yaml(self.root / "dvc.yaml")["stages"])]
        for path in LOCAL_PATHS:
            value = value_at(params, path)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not os.path.isabs(text):
                    for relative in self._matches(text, outputs):
                        if not any(out.is_relative_to(relative) for out in outputs):
                            self._link(relative)

    def _matches(self, pattern: str, outputs: Sequence[Path]) -> list[Path]:
        """What to link for a path or glob: a folder as a whole, unless files of the clone or of stages are in it too."""
        folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
        here = self.root / folder
        mixed = here.exists() or any(out.is_relative_to(folder) for out in outputs)
        if here.is_symlink() or not mixed:
            return [folder]
        every = pattern if glob.has_magic(pattern) else f"{glob.escape(pattern)}/**"  # such as weights beside a config
        found = [path for path in glob.glob(every, root_dir=self.home, recursive=True) if (self.home / path).is_file()]
        # What git does not ignore is in the snapshot; a file that is not there was added since.
        ignored = git(self.home, "check-ignore", "-z", "--stdin", stdin="".join(f"{path}\0" for path in found), check=False)
        return [Path(path) for path in ignored.split("\0") if path]

    def _link(self, relative: Path) -> None:
        relative = Path(os.path.normpath(relative))
        target, here = self.home / relative, Path(os.path.normpath(self.root / relative))
        if here.exists() or here.is_symlink() or not target.exists():
            return
        here.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # outside of the clone it is for all points, and another one made it
            here.symlink_to(target.resolve())
        if here.is_relative_to(self.clone):
            self._exclude(here)

    def _exclude(self, link: Path) -> None:
        """Keep a link out of the experiment, where it would replace the folder that it stands for.

        A pattern like `corpus/`, which keeps the user's folder out of git, does not hold for a link.
        """
        path = re.sub(r"([\\*?\[\] ])", r"\\\1", link.relative_to(self.clone).as_posix())
        exclude = self.clone / ".git/info/exclude"
        exclude.parent.mkdir(exist_ok=True)
        with exclude.open("a", encoding="utf-8") as file:
            file.write(f"/{path}\n")


def remove_folder(folder: Path) -> None:
    """Remove a folder, whatever may be written to in it."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def dvc_config(root: Path) -> Any:
    """DVC's settings for a project, of all levels, with absolute paths."""
    from dvc.config import Config

    return Config(dvc_dir=str(root / ".dvc"))


def cache_dir(root: Path) -> Path:
    """Where DVC's cache of a project is."""
    return Path(dvc_config(root)["cache"].get("dir") or root / ".dvc/cache")


def write_values(file: Path, values: Mapping[str, Any]) -> None:
    """Set values by dotted path in a YAML file, whose comments stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    data = yaml.load(file.read_text(encoding="utf-8"))
    set_values(data, values)
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(data, out)
