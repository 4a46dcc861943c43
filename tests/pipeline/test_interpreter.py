"""The wrong interpreter is told so, in one message, before anything can fail with a traceback."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline import interpreter
from tests.pipeline.toy import ROOT


def start(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", "pipeline.stages.train"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("file", ["pipeline/__init__.py", "pipeline/interpreter.py"])
def test_what_runs_before_the_check_can_be_read_by_old_pythons(file: str) -> None:
    ast.parse((ROOT / file).read_text(), feature_version=(3, 6))


def test_it_looks_for_what_the_project_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(interpreter.NEEDED) == {re.split(r"[<>=;\[ ]", dependency)[0] for dependency in project["dependencies"]}


def test_an_interpreter_without_our_packages_is_told_what_to_activate() -> None:
    done = start("-S")  # as if nothing was installed
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*torch.* not installed for .*python.*source \.venv/bin/activate.*make run`\n", done.stderr)


def test_a_stage_refuses_another_interpreter_than_the_runs() -> None:
    done = start(SAE_INTERPRETER="/elsewhere/bin/python")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: this stage runs under .*, but the run was started under /elsewhere/bin/python; .*\n", done.stderr
    )


def test_an_old_python_is_told_which_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 1))
    assert "(Python 3.8) is too old, this project needs Python 3.11 or newer" in interpreter.find_problem()


def test_two_environments_of_one_python_are_two_interpreters(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").symlink_to(sys.executable)
    (tmp_path / "one" / "python3").symlink_to("python")
    assert not interpreter.same_interpreter(str(tmp_path / "one/python"), str(tmp_path / "other/python"))
    assert interpreter.same_interpreter(str(tmp_path / "one/python"), str(tmp_path / "one/python3"))
