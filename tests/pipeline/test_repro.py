"""The whole chain by `dvc repro`, in a repository of its own: what is made, and what a change makes again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import make_subject, sentence
from tests.pipeline.workspaces import make_workspace, repro, run, stages_run, write_params

ALL = ["inputs", "tokens", "activations", "train", "evaluate", "report"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Path:
    """A workspace, in a path with a space, in which everything was run once. Tests below change it in order."""
    folder = make_workspace(tmp_path_factory.mktemp("repro") / "a workspace", tiny_subject)
    assert stages_run(repro(folder)) == ALL
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Hashes of everything that the stages made."""
    files = sorted(p for p in (folder / "data").rglob("*") if p.is_file() and "subject" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_stage_leaves_what_it_says(workspace: Path) -> None:
    data = workspace / "data"
    tokens = json.loads((data / "tokens/train/tokens.json").read_text())
    assert tokens["context"] == 16
    manifest = json.loads((data / "activations/train/manifest.json").read_text())
    assert manifest["hook_points"] == {"model.layers.0": 16}
    assert manifest["rows"] >= 6000
    weights = load_file(data / "sae/model.safetensors")
    assert weights["encoder.weight"].shape == weights["decoder.weight"].shape == (64, 16)
    config = json.loads((data / "sae/config.json").read_text())
    assert config["hook_points"] == ["model.layers.0"]
    assert set(config["lineage"]) == {"subject", "tokens", "activations", "code"}
    metrics = json.loads((data / "evaluation/metrics.json").read_text())
    assert metrics["tokens"] >= 1500
    assert metrics["loss"]["original"] < metrics["loss"]["zero_ablation"] + 1
    assert "</html>" in (data / "report/index.html").read_text()


def test_documents_of_the_splits_differ(workspace: Path) -> None:
    names = [
        set(json.loads((workspace / f"data/tokens/{s}/tokens.json").read_text())["documents"]) for s in ("train", "held_out")
    ]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]


def test_nothing_of_the_unfinished_work_is_left(workspace: Path) -> None:
    assert [p for p in (workspace / ".work").rglob("*") if p.is_file()] == [workspace / ".work/hashes.json"]


def test_dvc_shows_metrics_and_stages(workspace: Path) -> None:
    shown = json.loads(run(["dvc", "metrics", "show", "--json"], workspace).stdout)
    files = shown[""]["data"]
    assert files["data/evaluation/metrics.json"]["data"]["l0"] > 0
    dag = run(["dvc", "dag", "--md"], workspace).stdout
    assert all(stage in dag for stage in ALL)


def test_plots_need_no_network(workspace: Path) -> None:
    done = run(["dvc", "plots", "show", "--out", "plots"], workspace)
    assert done.returncode == 0, done.stderr
    page = (workspace / "plots/index.html").read_text()
    assert page.count("<img") == 3
    assert "<script" not in page
    assert "http" not in page
    shutil.rmtree(workspace / "plots")


def test_a_second_repro_repeats_nothing(workspace: Path) -> None:
    before = digests(workspace)
    assert stages_run(repro(workspace)) == ["inputs"]
    assert digests(workspace) == before


def test_two_folders_make_the_same_bytes(workspace: Path, tiny_subject: Path, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "another folder", tiny_subject)
    repro(other)
    assert digests(other) == digests(workspace)


def test_a_training_parameter_repeats_nothing_before_training(workspace: Path) -> None:
    write_params(workspace, {"train.lr": 2.0e-3})
    assert stages_run(repro(workspace)) == ["inputs", "train", "evaluate", "report"]
    diff = json.loads(run(["dvc", "params", "diff", "--all", "--json", "HEAD"], workspace).stdout or "{}")
    assert isinstance(diff, dict)
    write_params(workspace, {})
    restored = repro(workspace)
    assert stages_run(restored) == ["inputs"], "the run cache holds the first results"
    assert "Stage 'train' is cached" in restored


def test_the_trainers_code_repeats_nothing_before_training(workspace: Path) -> None:
    trainer = workspace / "sae/training/trainer.py"
    original = trainer.read_text()
    trainer.write_text(original + "\n# a change\n")
    changed = json.loads(run(["dvc", "status", "--json"], workspace).stdout)
    trainer.write_text(original)
    assert set(changed) - {"inputs"} == {"train"}


def test_the_model_directory_repeats_the_activations_and_not_the_tokens(workspace: Path) -> None:
    make_subject(workspace / "data/subject", seed=1)
    output = repro(workspace, "activations")
    assert stages_run(output) == ["inputs", "activations"]


def test_a_file_of_the_corpus_repeats_all(workspace: Path) -> None:
    used = json.loads((workspace / "data/tokens/train/tokens.json").read_text())["documents"][0]
    (workspace / "corpus" / used).write_text(sentence(1000))
    output = repro(workspace, "tokens")
    assert stages_run(output) == ["inputs", "tokens"]
    assert "activations" in json.loads(run(["dvc", "status", "--json"], workspace).stdout)
