"""Activations in a workspace: helpers, shares, streams, and the command that looks at stores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.workspaces import environment, make_workspace, run, write_params

HOOKS = {"activations.hook_points": ["model.layers.*", "model.layers.1.mlp.input"]}


def stage(folder: Path, *names: str) -> str:
    printed = ""
    for name in names:
        done = run([sys.executable, "-m", f"pipeline.stages.{name}"], folder)
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
    return printed


def command(folder: Path, *arguments: str, status: int = 0) -> str:
    done = run([sys.executable, "-m", "pipeline", "activations", *arguments], folder)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(folder: Path, *outs: str) -> dict[str, str]:
    found = sorted(p for out in outs for p in (folder / out).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Path:
    """A workspace with tokens, and settings that make several shards."""
    folder = make_workspace(tmp_path_factory.mktemp("activations") / "a workspace", tiny_subject)
    write_params(folder, HOOKS)
    stage(folder, "inputs", "tokens")
    return folder


@pytest.fixture(scope="module")
def captured(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured") / "a workspace"
    shutil.copytree(tokenized, folder)
    stage(folder, "activations")
    return folder


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_the_stage_says_first_what_it_will_write(captured: Path, tokenized: Path, tmp_path: Path) -> None:
    first, *_, last = stage(copy(tokenized, tmp_path / "w"), "activations").splitlines()
    assert first.startswith("activations: 7,618 rows, ")
    assert "shards" in first
    assert "of memory; about " in first
    assert "model.layers.0 [" in last
    assert not list((tmp_path / "w").glob(".work/activations/*"))


def test_helpers_change_no_byte(captured: Path, tokenized: Path, tmp_path: Path) -> None:
    folder = copy(tokenized, tmp_path / "w")
    write_params(folder, HOOKS | {"run.workers": 2})
    stage(folder, "activations")
    assert files(folder, "data/activations") == files(captured, "data/activations")


@pytest.mark.full
def test_shares_on_two_machines_meet_on_a_dvc_remote(captured: Path, tokenized: Path, tmp_path: Path) -> None:
    machines = [copy(tokenized, tmp_path / f"machine {i}") for i in range(2)]
    for folder in machines:
        assert run(["dvc", "remote", "add", "shared", str(tmp_path / "remote")], folder).returncode == 0
    command(machines[0], "capture", "--share", "1/2", "--push", "shared")
    printed = command(machines[1], "capture", "--share", "2/2", "--pull", "shared")
    assert "parts fetched from shared" in printed
    parts = sorted(machines[1].glob(".work/activations/*/activations/*/.parts/part-*"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    total = int(printed.splitlines()[-1].split(" of ")[1].split()[0])
    assert len(parts) == total > 0
    assert all(part.stat().st_mtime_ns == when for part, when in before.items())
    stage(machines[1], "activations")
    assert files(machines[1], "data/activations") == files(captured, "data/activations")


def test_a_remote_that_is_not_there_names_the_nearest(tokenized: Path, tmp_path: Path) -> None:
    folder = copy(tokenized, tmp_path / "w")
    run(["dvc", "remote", "add", "shared", str(tmp_path / "remote")], folder)
    printed = command(folder, "capture", "--pull", "sharde", status=2)
    assert "no such DVC remote (found sharde, expected shared); did you mean 'shared'?" in printed


def test_info_and_verify(captured: Path, tmp_path: Path) -> None:
    folder = copy(captured, tmp_path / "w")
    printed = command(folder, "info")
    assert "shuffled (seed 0)" in printed
    assert "in sequences of 16" in printed
    assert "model.layers.1.mlp.input [" in printed
    assert "1 of 1 shards are whole" in command(folder, "verify")
    shard = next((folder / "data/activations/train").glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(bytes(content))
    assert f"found {shard}" in command(folder, "verify", status=1)
    shard.unlink()
    assert "a shard of this store is missing" in command(folder, "info", status=1)


def test_no_store_is_said_plainly(tokenized: Path) -> None:
    assert "there is no store here" in command(tokenized, "info", status=2)


def test_own_tensors_become_a_store(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, :3])
    printed = command(tmp_path, "import", "mine", "first=x.npy", "second=y.npy", "--dtype", "float32")
    assert printed.startswith("500 rows → mine")
    printed = command(tmp_path, "info", "mine")
    assert "first [8]" in printed
    assert "second [3]" in printed
    assert "no such choice (found int4" in command(tmp_path, "import", "other", "a=x.npy", "--dtype", "int4", status=2)
    assert "NAME=FILE (found x.npy)" in command(tmp_path, "import", "other", "x.npy", status=2)


LONGER = {"sae.architecture": "topk", "train.steps": 200, "train.checkpoint_every": 10}
STREAM = LONGER | {"activations.store": "stream", "activations.mix_rows": 2000}


@pytest.fixture(scope="module")
def streamed(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy(tokenized, tmp_path_factory.mktemp("streamed") / "a workspace")
    write_params(folder, STREAM)
    printed = stage(folder, "activations", "train", "evaluate")
    assert "a sample of train" in printed
    return folder


def test_a_stream_trains_as_a_store_does(streamed: Path, captured: Path, tmp_path: Path) -> None:
    folder = copy(captured, tmp_path / "w")
    write_params(folder, HOOKS | LONGER)
    stage(folder, "train", "evaluate")
    stored, live = (json.loads((f / "data/evaluation/metrics.json").read_text()) for f in (folder, streamed))
    assert live["fvu"] == pytest.approx(stored["fvu"], rel=0.1)
    assert live["l0"] == pytest.approx(stored["l0"], rel=0.1)
    lineage = json.loads((streamed / "data/sae/config.json").read_text())["lineage"]
    assert set(lineage) == {"subject", "tokens", "activations", "code"}


@pytest.mark.full
def test_training_from_a_stream_that_is_killed_goes_on_to_the_same_bytes(streamed: Path, tmp_path: Path) -> None:
    folder = copy(streamed, tmp_path / "w")
    for out in ("data/sae", "data/train"):
        shutil.rmtree(folder / out)
    process = subprocess.Popen([sys.executable, "-m", "pipeline.stages.train"], cwd=folder, env=environment())
    deadline = time.monotonic() + 60
    while not list(folder.glob(".work/train/*/checkpoint/state.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() < 0
    stage(folder, "train")
    assert files(folder, "data/sae", "data/train") == files(streamed, "data/sae", "data/train")


def test_a_stream_whose_tokens_have_changed_is_refused(streamed: Path, tmp_path: Path) -> None:
    folder = copy(streamed, tmp_path / "w")
    about = folder / "data/tokens/train/tokens.json"
    about.write_text(about.read_text().replace('"sha256": "', '"sha256": "0'))
    done = run([sys.executable, "-m", "pipeline.stages.train"], folder)
    assert done.returncode == 1
    assert "the stream's tokens or subject have changed" in done.stderr


@pytest.mark.parametrize(
    ("sae", "inputs", "targets"),
    [
        ({"sae.architecture": "crosscoder", "sae.hook_points": ["model.layers.*"]}, ["model.layers.0", "model.layers.1"], None),
        (
            {
                "sae.architecture": "skip_transcoder",
                "sae.hook_points": ["model.layers.1.mlp.input"],
                "sae.target_hook_points": ["model.layers.1"],
            },
            ["model.layers.1.mlp.input"],
            ["model.layers.1"],
        ),
    ],
)
def test_several_hook_points_of_a_real_model_are_trained_on_and_evaluated(
    sae: dict[str, object], inputs: list[str], targets: list[str] | None, captured: Path, tmp_path: Path
) -> None:
    folder = copy(captured, tmp_path / "w")
    write_params(folder, HOOKS | sae | {"train.steps": 200})
    stage(folder, "train", "evaluate", "report")
    config = json.loads((folder / "data/sae/config.json").read_text())
    assert (config["hook_points"], config["target_hook_points"]) == (inputs, targets or inputs)
    metrics = json.loads((folder / "data/evaluation/metrics.json").read_text())
    assert 0 < metrics["fvu"] < 2
    assert metrics["loss"]["spliced"] > 0
