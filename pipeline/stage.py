"""What every stage stands on: its sections, its outputs by rename, its unfinished work, its exit status."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from pipeline.exits import exit_status
from pipeline.run_config import RunConfig
from pipeline.sections import PARAMS_FILE, read_section, read_yaml

C = TypeVar("C", bound=BaseModel)
WORK = Path(".work")
CODE = (".py", ".json", ".html", ".css", ".js")


class StageContext:
    """A stage's view of the workspace that it runs in.

    Args:
        name: of the stage, as in dvc.yaml.
        root: the workspace.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root

    def section(self, name: str, cls: type[C]) -> C:
        """A section of params.yaml. The stage must name it under `params` in dvc.yaml."""
        return read_section(self.root, name, cls)

    @cached_property
    def run(self) -> RunConfig:
        """The `run` section."""
        return self.section("run", RunConfig)

    @cached_property
    def key(self) -> str:
        """Hash of all that the stage depends on, as dvc.yaml states it: parameters, code, and what came before.

        Unfinished work is kept under it, so that work of another configuration is never picked up.
        """
        stage = read_yaml(self.root / "dvc.yaml")["stages"][self.name]
        params = read_yaml(self.root / PARAMS_FILE)
        depends: dict[str, Any] = {f"params:{path}": _at(params, path) for path in stage.get("params", [])}
        depends |= {f"file:{path}": self.digest_of(self.root / path) for path in stage.get("deps", [])}
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def work(self) -> Path:
        """Folder for unfinished work of exactly this configuration; it is on the same disk as the outputs."""
        folder = self.root / WORK / self.name / self.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def output(self, path: str) -> Iterator[Path]:
        """A fresh folder that becomes the output at `path` if the block ends well."""
        fresh = self.work / "outputs" / Path(path).name
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        self.publish(fresh, path)

    def publish(self, finished: Path, path: str) -> None:
        """Rename a finished folder to the output at `path`."""
        target = self.root / path
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        finished.rename(target)

    def forget_work(self) -> None:
        """Drop this configuration's unfinished work: the stage has ended well."""
        shutil.rmtree(self.work, ignore_errors=True)

    def read_json(self, path: str) -> Any:
        """A JSON file that an earlier stage wrote."""
        return json.loads((self.root / path).read_text())

    def code_hash(self) -> str:
        """Hash of the code that this stage depends on, from dvc.yaml."""
        stage = read_yaml(self.root / "dvc.yaml")["stages"][self.name]
        code = {path: self.digest_of(self.root / path) for path in stage.get("deps", []) if not path.startswith("data/")}
        return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def digest_of(path: Path) -> str:
        """Hash of a file or folder. Code is read, and of data the JSON files, which hold the checksums of all the rest."""
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
        digest = hashlib.sha256()
        for file in files:
            content = file.read_bytes() if file.suffix in CODE else str(file.stat().st_size).encode()
            digest.update(f"{file.relative_to(path)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()


def run_stage(name: str, body: Callable[[StageContext], str]) -> int:
    """Run a stage in the current folder and return its exit status.

    Args:
        name: of the stage.
        body: does the work and returns one line: what it made, how much, where.
    """

    def work() -> None:
        context = StageContext(name, Path.cwd())
        summary = body(context)
        context.forget_work()
        print(f"{name}: {summary}", flush=True)

    return exit_status(work)


def _at(params: dict[str, Any], path: str) -> Any:
    value: Any = params
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
