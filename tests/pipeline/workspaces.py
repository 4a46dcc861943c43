"""Temporary workspaces with the real code, a tiny model and a tiny corpus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import sentence

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TINY: dict[str, Any] = {
    "corpus": {"source": "files", "held_out": 0.3, "files": {"paths": ["corpus/*.txt"]}},
    "subject": {"model": "data/subject", "dtype": "float32"},
    "tokens": {"context": 16, "train": 6000, "held_out": 1500},
    "activations": {"hook_points": ["model.layers.0"], "dtype": "float16", "shard_mb": 1},
    "sae": {"architecture": "vanilla", "expansion": 4},
    "train": {"steps": 60, "batch_size": 64, "l0_target": 4, "log_every": 10, "checkpoint_every": 20},
    "evaluate": {"splice_tokens": 500, "latents": 4, "examples": 3},
    "report": {"title": "A tiny run"},
    "run": {"device": "cpu", "threads": 1, "log": ["dvclive"]},
}


def make_workspace(folder: Path, subject: Path) -> Path:
    """A git repository with this project's code and the tiny setting. Git knows no user here."""
    folder.mkdir(parents=True)
    for name in ("sae", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    shutil.copytree(subject, folder / "data" / "subject")
    (folder / "corpus").mkdir()
    for index in range(40):
        (folder / "corpus" / f"{index}.txt").write_text(sentence(index))
    write_params(folder, {})
    run(["git", "init", "--quiet"], folder)
    return folder


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """The tiny params.yaml with some values changed, by dotted path."""
    params = {section: dict(values) for section, values in TINY.items()}
    for path, value in changes.items():
        section, _, key = path.partition(".")
        params[section][key] = value
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)


def environment() -> dict[str, str]:
    """The environment of a user: this interpreter first in PATH, no git identity, no network for the hub."""
    here = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull, "HF_HUB_OFFLINE": "1"}
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PYTHONPATH"))} | here


def run(command: list[str], folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; its output is captured."""
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, **more)


def repro(folder: Path, *arguments: str) -> str:
    """`dvc repro`, which must succeed; returns what it printed."""
    done = run(["dvc", "repro", *arguments], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stages_run(output: str) -> list[str]:
    """Names of the stages that `dvc repro` said it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
