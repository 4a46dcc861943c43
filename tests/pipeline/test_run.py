"""`python -m pipeline run`, for real: a toy project, a temporary Prefect server, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.toy import Stages, make_toy, pipeline, processes_with, recorded, toy_environment

STAGES: Stages = {
    "second": {"cmd": "cat first.txt && cp first.txt second.txt", "deps": ["first.txt"], "outs": ["second.txt"]},
    "first": {"cmd": "echo hello from first && echo 1 > first.txt", "params": ["train.seed"], "outs": ["first.txt"]},
}
MORE: Stages = {
    "mistake": {"cmd": "echo 'error: train.lr: wrong' >&2; exit 2"},
    "forever": {"cmd": "echo ready; sleep 3621.25", "outs": ["never.txt"]},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests below change it in order."""
    return make_toy(tmp_path_factory.mktemp("run") / "a toy", {**STAGES, **MORE})


def table(output: str) -> dict[str, str]:
    """Outcome by stage, from the summary at the end."""
    rows = output[output.index("outcome") :].splitlines()[1:-1]
    return {row.split("  ")[0].strip(): " ".join(row.split()[1:-1]) for row in rows}


def test_stages_run_in_order_whatever_the_users_profile_says(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('active = "gone"\n[profiles.gone]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    (toy / "some where").mkdir()
    run = pipeline(toy / "some where", "run", "--stages", "second,first", PREFECT_PROFILES_PATH=str(tmp_path / "profiles.toml"))
    assert run.returncode == 0, run.stderr
    assert table(run.stdout) == {"first": "ran", "second": "ran"}
    assert "first  | hello from first\n" in run.stdout
    assert run.stdout.index("hello from first") < run.stdout.index("second | 1\n")
    assert "Beginning flow run" not in run.stdout + run.stderr
    assert "temporary server" not in run.stdout + run.stderr


def test_a_second_run_repeats_nothing_and_the_states_say_so(toy: Path) -> None:
    (toy / "second.txt").unlink()
    run = pipeline(toy.parent, "run", "--root", str(toy), "--stages", "first,second,mistake")
    assert table(run.stdout) == {"first": "unchanged", "second": "cached", "mistake": "failed"}
    assert recorded(toy, "select name, state_name from task_run order by created") == [
        *[("first", "Ran"), ("second", "Ran")],
        *[("first", "Unchanged"), ("second", "Cached"), ("mistake", "Failed")],
    ]
    assert recorded(toy, "select state_name from flow_run order by created") == [("Completed",), ("Failed",)]
    assert run.returncode == 2
    assert run.stderr == "error: train.lr: wrong\n"
    assert "wrong" not in run.stdout
    logged = {message for (message,) in recorded(toy, "select message from log")}
    assert {"hello from first", "Running stage 'first':", "error: train.lr: wrong"} <= logged


# A terminal signals the whole group.
@pytest.mark.parametrize("to_group", [True, pytest.param(False, marks=pytest.mark.full)])
def test_ctrl_c_ends_the_stage_frees_the_locks_and_says_how_to_go_on(toy: Path, to_group: bool) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "--stages", "forever"]
    run = subprocess.Popen(
        command, cwd=toy, env=toy_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    assert next(line for line in run.stdout if "ready" in line) == "forever | ready\n"
    started = time.monotonic()
    (os.killpg if to_group else os.kill)(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert time.monotonic() - started < 20
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].endswith("python -m pipeline run --stages forever")
    assert processes_with("3621.25") == []
    assert not json.loads((toy / ".dvc/tmp/rwlock").read_text()).get("write")
    assert recorded(toy, "select state_name from flow_run order by created")[-1] == ("Crashed",)


def test_a_wrong_parameter_is_reported_before_anything_starts(toy: Path) -> None:
    params = toy / "params.yaml"
    params.write_text(params.read_text().replace("  steps:", "  stepps:"))
    run = pipeline(toy, "run")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: train.stepps: unknown key")


def test_a_server_that_does_not_answer_is_one_message(toy: Path) -> None:
    params = toy / "params.yaml"
    params.write_text(params.read_text().replace("  stepps:", "  steps:"))
    run = pipeline(toy, "run", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("error: http://127.0.0.1:9/api: no Prefect server answers")
    assert run.stderr.count("\n") == 1


def test_outside_a_project_the_message_says_so(tmp_path: Path) -> None:
    run = pipeline(tmp_path, "run")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no dvc.yaml and params.yaml" in run.stderr
