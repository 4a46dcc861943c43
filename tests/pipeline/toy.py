"""A toy project: a git repository, in a path with a space, whose stages are short shell commands."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]

Stages = Mapping[str, Mapping[str, Any]]


def make_toy(folder: Path, stages: Stages) -> Path:
    """Write a project with these stages, and with this project's own params.yaml."""
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    write_stages(folder, stages)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, env=toy_environment(), check=True)
    return folder


def write_stages(root: Path, stages: Stages) -> None:
    """Write the project's dvc.yaml."""
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)


def toy_environment(**more: str) -> dict[str, str]:
    """An environment in which git knows no user, and Prefect no setting."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return env | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PYTHONPATH": str(ROOT)} | more


def pipeline(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline …` in `cwd`."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=cwd, env=toy_environment(**env), capture_output=True, text=True, timeout=120)


def recorded(root: Path, query: str) -> list[Any]:
    """Rows of the database that the runs' temporary server keeps in the project."""
    with sqlite3.connect(root / ".work/prefect/prefect.db") as database:
        return database.execute(query).fetchall()


def processes_with(marker: str) -> list[str]:
    """Command lines of the running processes that contain `marker`."""
    listed = subprocess.run(["ps", "-A", "-o", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if marker in line and not line.startswith("Z")]
