"""dvc.yaml against the code: each stage depends on exactly what it imports, and on the sections that it reads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]

# What a stage reaches by a name in params.yaml, or by one in a string, so that its imports alone don't show it.
BY_NAME = {
    "train": ["sae/architectures", "pipeline/streaming.py", "sae/activations/stream.py"],
    "evaluate": ["sae/architectures"],
}

# What these import is the stage `activations`'s code, whose hash that stage leaves with its word to stream.
STREAMING = {"pipeline/streaming.py", "sae/activations/stream.py"}

# Decides whether a stage starts, not what it makes.
NO_RESULT = {"pipeline/interpreter.py"}

# Sections that are read as plain values: the report shows all. (`inputs` reads two such values, and runs always.)
OTHERWISE_READ = {
    "report": {"corpus", "subject", "tokens", "activations", "sae", "train", "evaluate"},
}

LIST_IMPORTS = """
import importlib, os, sys
importlib.import_module("pipeline.stages.{stage}")
root = os.getcwd() + os.sep
files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
print("\\n".join(sorted(f[len(root):] for f in files if f.startswith((root + "sae", root + "pipeline")))))
"""


def in_a_fresh_interpreter(code: str) -> str:
    """What a piece of code prints when it runs in this project's folder."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def imported_files(stage: str) -> set[str]:
    imported = set(in_a_fresh_interpreter(LIST_IMPORTS.format(stage=stage)).split())
    for name in BY_NAME.get(stage, []):
        path = ROOT / name
        imported |= {str(p.relative_to(ROOT)) for p in ([path] if path.is_file() else path.rglob("*.py"))}
    return imported


def lazily_imported(files: set[str]) -> set[str]:
    """Our own modules that these files import inside functions: a stage may need them though its start does not show them."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                path = Path(*module.split("."))
                for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                    if candidate.parts[0] in ("sae", "pipeline") and (ROOT / candidate).exists():
                        found.add(str(candidate))
    return found


def declared_files(stage: str) -> set[str]:
    files = set()
    for dep in STAGES[stage]["deps"]:
        path = ROOT / dep
        if not dep.startswith("data/"):
            assert path.exists(), f"{stage} depends on {dep}, which is not there"
            inside = path.rglob("*") if path.is_dir() else [path]
            files |= {str(p.relative_to(ROOT)) for p in inside if p.is_file() and p.suffix != ".pyc"}
    return files


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(stage: str) -> None:
    imported = imported_files(stage)
    needed = (imported | lazily_imported(imported - STREAMING)) - NO_RESULT
    declared = {file for file in declared_files(stage) if file.endswith(".py")}
    assert needed - declared == set(), "these are imported and not declared: stale results would come back"
    assert declared - needed == set(), "these are declared and not imported: results would be made again for nothing"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_sections_that_it_reads(stage: str) -> None:
    read = set()
    for node in ast.walk(ast.parse((ROOT / f"pipeline/stages/{stage}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "section":
            read.add(ast.literal_eval(node.args[0]))
    declared = {param.partition(".")[0] for param in STAGES[stage]["params"]}
    assert read - {"run"} == declared - {"run"} - OTHERWISE_READ.get(stage, set())


def test_nothing_depends_on_the_sweep_or_on_how_a_run_is_done() -> None:
    params = [param for stage in STAGES.values() for param in stage["params"]]
    assert not [param for param in params if param.startswith("sweep")]
    assert {param for param in params if param.startswith("run")} == {"run.threads"}


def test_no_parameter_is_put_into_a_command() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m pipeline.stages.{name}"


def test_only_what_costs_nothing_runs_always() -> None:
    assert [name for name, stage in STAGES.items() if stage.get("always_changed")] == ["inputs"]


def test_training_imports_no_language_model_library() -> None:
    check = "import sys, pipeline.stages.train; print(sorted({'transformers', 'datasets', 'prefect'} & set(sys.modules)))"
    assert in_a_fresh_interpreter(check).strip() == "[]"
