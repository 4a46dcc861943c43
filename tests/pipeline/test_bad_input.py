"""A user's mistake gets one clear message and exit status 2, from the command and from the stage that meets it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.params import load_params
from pipeline.stage import run_stage
from sae.config import InputError
from tests.pipeline.workspaces import make_workspace, run, write_params


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Path:
    """A workspace in which the stages before training have run."""
    folder = make_workspace(tmp_path_factory.mktemp("bad") / "a workspace", tiny_subject)
    for stage in ("inputs", "tokens", "activations"):
        done = stage_run(folder, stage)
        assert done.returncode == 0, done.stderr
    return folder


def stage_run(folder: Path, stage: str) -> Any:
    return run([sys.executable, "-m", f"pipeline.stages.{stage}"], folder)


OWN = """
from sae import SAE, Architecture, SweepableConfig, model_prop
from sae.components import L2Loss
from torch import nn

class Config(SweepableConfig):
    pre_bias: bool = False

class Own(Architecture[Config]):
    @model_prop
    def model(self):
        return SAE(encoder_pre=self.init.encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)
    L2_loss = model.add_loss(L2Loss)
"""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.stepz": 5}, "train.stepz: unknown key; did you mean 'train.steps'?"),
        ({"train.steps": "many"}, "train.steps: input should be a valid integer"),
        ({"sae.d_sae": 0}, "sae.d_sae: input should be greater than 0 (found 0)"),
        ({"sae.architecture": "topkk"}, "did you mean 'topk'?"),
        ({"sae.architecture": "no.such:Thing"}, "sae.architecture: no module"),
        ({"corpus.source": "python-stdib"}, "did you mean 'python-stdlib'?"),
        ({"activations.hook_points": []}, "activations.hook_points"),
        ({"run.device": "gpu"}, "run.device"),
        ({"train.optimizer": {"name": "admaw"}}, "train.optimizer.name: input should be"),
        ({"train.dead_latents": "resmple"}, "did you mean 'resample'?"),
        ({"train.schedule": {"warmup": 1.5}}, "train.schedule.warmup"),
        ({"tokens.context": 1}, "tokens.context: input should be greater than or equal to 2 (found 1)"),
    ],
)
def test_params_are_checked_before_anything_runs(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write_params(tmp_path, changes)
    with pytest.raises(InputError) as caught:
        load_params(tmp_path)
    assert says in str(caught.value)


def test_a_section_that_is_left_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("corpus: {}\n")
    with pytest.raises(InputError, match=r"train: this key is needed"):
        load_params(tmp_path)


def test_yaml_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train:\n  steps: [1, 2\n")
    with pytest.raises(InputError, match=r"params.yaml: this is no valid YAML in line"):
        load_params(tmp_path)


def with_params(changes: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: write_params(folder, changes)


def without_weights(folder: Path) -> None:
    (folder / "data/subject/model.safetensors").unlink()


def with_empty_corpus(folder: Path) -> None:
    for file in (folder / "corpus").iterdir():
        file.write_text(" \n")


def with_a_folder_to_start_from(name: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        (folder / "earlier").mkdir()
        (folder / "earlier" / name).write_text("{}")
        write_params(folder, {"train.start_from": "earlier"})

    return break_it


@pytest.mark.parametrize(
    ("break_it", "stage", "says"),
    [
        (with_params({"corpus.files": {"paths": ["corpsu/*.txt"]}}), "inputs", "corpus.files.paths: this path matches no file"),
        (with_params({"subject.model": "data/sujbect"}), "inputs", "did you mean 'data/subject'?"),
        (without_weights, "inputs", "subject.model: this model directory has no weights"),
        (with_params({"sae.architecture": "no.such:Thing"}), "inputs", "sae.architecture: no such module can be imported"),
        (with_params({"train.start_from": "nowhere"}), "inputs", "train.start_from: there is no such folder (found nowhere"),
        (with_params({"train.start_from": "data/sae"}), "inputs", "train.start_from: there is no such folder"),
        (with_empty_corpus, "tokens", "the corpus is empty"),
        (with_params({"tokens.context": 64}), "tokens", "tokens.context: the context is longer than the model's (found 64"),
        (with_params({"activations.hook_points": ["model.layer.0"]}), "activations", "did you mean 'model.layers.0'?"),
        (with_params({"activations.hook_points": ["nothing"]}), "activations", "model.layers.0, model.layers.1"),
        (with_params({"sae.expansion": 0.001}), "train", "sae.expansion: this makes an SAE without latents"),
        (with_params({"sae.hook_points": ["model.layers.1"]}), "train", "the store has no such hook point"),
        (with_params({"train.coefficients": {"sparsty_loss": 1.0}}), "train", "did you mean 'sparsity_loss'?"),
        (
            with_params({"train.l0_targeting": {"coefficient": "sparsty_loss"}}),
            "train",
            "train.l0_targeting.coefficient: ",
        ),
        (with_params({"sae.architecture": "topk", "train.l0_target": None}), "train", "train.l0_target: "),
        (
            with_params({"train.optimizer": {"name": "adam", "momentum": 0.9}}),
            "train",
            "train.optimizer.momentum: this optimizer takes no such argument (found adam, expected ",
        ),
        (with_params({"train.schedule": {"warmup": 50, "cooldown": 50}}), "train", "train.schedule"),
        (with_params({"train.early_stopping": {"max": {"dead": {10: 3}}}}), "train", "train.early_stopping.max: "),
        (
            with_a_folder_to_start_from("notes.json"),
            "train",
            "train.start_from: this directory holds neither a run's state nor a saved SAE",
        ),
    ],
)
def test_a_stage_refuses_what_only_it_can_see(
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None],
    stage: str,
    says: str,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    break_it(folder)
    monkeypatch.chdir(folder)
    assert run_stage(stage, import_module(f"pipeline.stages.{stage}").body) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert says in last


@pytest.mark.parametrize(("key", "says"), [("pre_bais", "did you mean 'sae.own.pre_bias'?"), ("pre_bias", None)])
def test_the_config_of_an_own_class_is_checked_as_ours_are(workspace: Path, tmp_path: Path, key: str, says: str | None) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    (folder / "mine").mkdir()
    (folder / "mine/model.py").write_text(OWN)
    write_params(folder, {"sae.architecture": "mine.model:Own", "sae.own": {key: True}})
    done = stage_run(folder, "train")
    if says is None:
        assert done.returncode == 0, done.stderr
        assert "mine.model:Own" in (folder / "data/sae/config.json").read_text()
    else:
        assert done.returncode == 2
        assert done.stderr == f"error: sae.own.{key}: unknown key; {says}\n"
