"""The real train stage on a tiny store: every architecture, stopped and gone on with, extended, fine-tuned."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.progress import SECONDS_VARIABLE
from pipeline.stage import run_stage
from pipeline.stages import activations, inputs, tokens, train
from sae import load
from sae.activations.loader import StoreSource
from sae.architectures import SHIPPED
from tests.pipeline.workspaces import environment, make_workspace, write_params

SEVERAL_HOOK_POINTS = {"crosscoder"}

# Much of what a run's state holds is in use here, and the first checkpoint by count is out of reach.
LONG: Mapping[str, Any] = {
    "train.steps": 600,
    "train.checkpoint_every": 10_000,
    "train.log_every": 20,
    "train.dead_latents": "both",
    "train.dead_window": 2000,
    "train.resample": {"pool": 512},
    "train.average": 0.9,
    "run.grace": 60,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Path:
    """A workspace whose activations are stored. Tests work in copies of it."""
    folder = make_workspace(tmp_path_factory.mktemp("train") / "a workspace", tiny_subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, stage in (("inputs", inputs), ("tokens", tokens), ("activations", activations)):
            assert run_stage(name, stage.body) == 0
    return folder


@pytest.fixture
def workspace(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a copy"
    shutil.copytree(stored, folder)
    monkeypatch.chdir(folder)
    return folder


def made(folder: Path) -> dict[str, str]:
    """Hashes of the SAE and the curves."""
    files = sorted(p for out in ("data/sae", "data/train") for p in (folder / out).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def forget(folder: Path) -> None:
    for out in ("data/sae", "data/train"):
        shutil.rmtree(folder / out)


def checkpoint(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob(".work/train/*/checkpoint/state.json")
    return dict(json.loads(file.read_text()))


@contextmanager
def training(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that trains, once it says how far it is."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment() | {SECONDS_VARIABLE: "0.05"},
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if " steps, " in line and " of " in line:
                break
        else:
            raise AssertionError("".join(said) + process.communicate()[1])
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("architecture", sorted(set(SHIPPED) - SEVERAL_HOOK_POINTS))
def test_every_architecture_of_one_hook_point_is_trained_saved_and_loaded(
    workspace: Path, architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(
        workspace, {"sae.architecture": architecture, "train.steps": 8, "train.log_every": 4, "train.held_out_rows": 128}
    )
    assert run_stage("train", train.body) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"train: {architecture} 16 → 64, 8 steps of 64, L0 " in said
    sae = load(workspace / "data/sae")
    assert sae.hook_points == ["model.layers.0"]
    x_BD, _ = next(StoreSource(workspace / "data/activations/held_out").batches(32, seed=0))
    assert sae(x_BD).isfinite().all()
    metrics = json.loads((workspace / "data/train/metrics.json").read_text())
    assert {"loss", "l0", "fvu", "held_out_l0", "held_out_fvu", "lr"} <= set(metrics)
    assert not list((workspace / ".work/train").rglob("*.safetensors"))


def test_the_line_that_the_stage_prints_is_measured_on_the_sae_that_it_saved(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(workspace, {"sae.architecture": "batchtopk", "train.average": 0.9})
    assert run_stage("train", train.body) == 0
    line = capsys.readouterr().out
    rows = -(-train.ROWS_MEASURED // 64)
    batches = StoreSource(workspace / "data/activations/train").batches(64, seed=0)
    sae = load(workspace / "data/sae")
    l0 = sum(float(sae.encode(next(batches)[0]).l0_per_token().float().mean()) for _ in range(rows)) / rows
    assert f"L0 {l0:.2f} (target 4)" in line


def test_a_stage_that_is_terminated_saves_and_goes_on_to_the_same_bytes(workspace: Path) -> None:
    write_params(workspace, LONG)
    assert run_stage("train", train.body) == 0
    whole = made(workspace)
    forget(workspace)

    with training(workspace, "pipeline.stages.train") as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (143, "")
    assert 0 < checkpoint(workspace)["step"] < 600
    assert not (workspace / "data/sae").exists()

    assert run_stage("train", train.body) == 0
    assert made(workspace) == whole


@pytest.mark.full
def test_a_run_that_is_interrupted_goes_on_to_the_same_bytes(workspace: Path) -> None:
    write_params(workspace, LONG)
    assert run_stage("train", train.body) == 0
    whole = made(workspace)
    forget(workspace)

    command = ("pipeline", "run", "--stages", "train")
    with training(workspace, *command) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert errors.splitlines()[-1].endswith("python -m pipeline run --stages train")
    assert 0 < checkpoint(workspace)["step"] < 600

    done = subprocess.run([sys.executable, "-m", *command], cwd=workspace, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made(workspace) == whole


def test_the_state_of_a_run_is_kept_when_it_is_asked_for(workspace: Path) -> None:
    write_params(workspace, {"train.steps": 10})
    assert run_stage("train", train.body) == 0
    assert not (workspace / "data/train/state").exists()
    write_params(workspace, {"train.steps": 10, "train.keep_state": True})
    assert run_stage("train", train.body) == 0
    assert sorted(file.name for file in (workspace / "data/train/state").iterdir()) == ["state.json", "state.safetensors"]


def test_a_run_that_ends_early_says_why_and_leaves_its_state(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = {"max": {"fvu": {20: 1.0e-6}}}
    write_params(workspace, {"train.keep_state": True, "train.checkpoint_every": 1000, "train.early_stopping": stop})
    assert run_stage("train", train.body) == 0
    assert "20 steps of 64" in (line := capsys.readouterr().out)
    assert "ended early: fvu is" in line
    assert json.loads((workspace / "data/train/state/state.json").read_text())["step"] == 20


def test_a_kept_state_is_extended_and_a_saved_sae_is_tuned(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(workspace, {"train.steps": 20, "train.keep_state": True})
    assert run_stage("train", train.body) == 0
    shutil.copytree(workspace / "data/train/state", workspace / "a state")
    shutil.copytree(workspace / "data/sae", workspace / "an sae")

    write_params(workspace, {"train.steps": 20, "train.start_from": "a state"})
    assert run_stage("train", train.body) == 2
    assert "error: train.steps: the run to be extended is already as long (found 20" in capsys.readouterr().err

    write_params(workspace, {"train.steps": 30, "train.start_from": "a state"})
    assert run_stage("train", train.body) == 0
    curve = (workspace / "data/train/plots/metrics/loss.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in curve] == ["step", "10", "20", "30"]

    write_params(workspace, {"train.steps": 10, "train.start_from": "an sae"})
    assert run_stage("train", train.body) == 0
    curve = (workspace / "data/train/plots/metrics/loss.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in curve] == ["step", "10"]
