"""A run that was stopped anywhere ends with the bytes of one that was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.components import EMAFreqTracker, L2Loss
from sae.config import Failure, SweepableConfig
from sae.core import Seq
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer
from tests.sae.architecture.test_seed_examples import Gated
from tests.sae.synthetic import SyntheticSource

CONFIG = TrainConfig(steps=24, batch_size=64, l0_target=3, checkpoint_every=4, log_every=5, dead_window=500)


class Noisy(Architecture[SweepableConfig]):
    """A model with randomness of its own."""

    @model_prop
    def model(self) -> SAE:
        encoder = Seq(drop=nn.Dropout(0.3), lin=self.init.encoder)
        return SAE(encoder_pre=encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


def trainer(directory: Path, cls: type[Architecture[Any]] = VanillaSAE, **more: Any) -> Trainer:
    architecture = cls(d_in=16, d_sae=32, l0_target=CONFIG.l0_target, seed=CONFIG.seed)
    return Trainer(architecture, SyntheticSource(), CONFIG, device=torch.device("cpu"), checkpoint=directory / "state", **more)


class Stopped(Exception):
    pass


def stop_after(steps: int) -> Callable[[int], None]:
    """A progress callback that kills the run once so many steps are done."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done >= steps:
            raise Stopped

    return progress


def everything(run: Trainer) -> dict[str, Tensor]:
    """All that a run carries: weights, moments, trackers."""
    return run.state._tensors()


def assert_same_bytes(one: Trainer, other: Trainer) -> None:
    a, b = everything(one), everything(other)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].numpy().tobytes() != b[name].numpy().tobytes()] == []
    assert one.state.history == other.state.history
    assert one.state.controller.coefficient == other.state.controller.coefficient


@pytest.mark.parametrize("cls", [VanillaSAE, TopKSAE, Gated, Noisy])
def test_run_stopped_after_any_step_ends_with_the_same_bytes(cls: type[Architecture[Any]], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", cls)
    whole.train()
    stops = (1, 4, 7, 8, 12, 16, 20, 24) if cls is VanillaSAE else (6, 20)  # every checkpoint, and none
    for stop in stops:
        directory = tmp_path / f"stopped after {stop}"
        with pytest.raises(Stopped):
            trainer(directory, cls, progress=stop_after(stop)).train()
        torch.rand(stop)  # whatever else moves the global generator
        resumed = trainer(directory, cls)
        resumed.train()
        assert_same_bytes(resumed, whole)


def test_run_stopped_again_and_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()
    for stop in (5, 9, 13, 17):  # each counts the steps of the checkpoint that it goes on from
        with pytest.raises(Stopped):
            trainer(tmp_path, progress=stop_after(stop)).train()
    resumed = trainer(tmp_path)
    resumed.train()
    assert_same_bytes(resumed, whole)


def test_resumed_run_begins_at_its_batch_and_repeats_the_curves(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trainer(tmp_path, progress=stop_after(14)).train()
    logged: list[int] = []
    resumed = trainer(tmp_path, log=lambda step, figures: logged.append(step))
    resumed.train()
    assert isinstance(resumed.source, SyntheticSource)
    assert resumed.source.served[0] == 12  # the last checkpoint; batches count from 0
    assert logged == [5, 10, 15, 20, 24]


def test_state_holds_weights_moments_trackers_controller_and_step(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    fresh = trainer(tmp_path)
    assert fresh.state.restore(tmp_path / "state")
    assert_same_bytes(fresh, run)
    assert fresh.state.step == CONFIG.steps
    tracker = next(m for m in fresh.trainable.modules() if isinstance(m, EMAFreqTracker))
    assert float((tracker.frequency - 1e-5).abs().max()) > 0
    assert any("exp_avg_sq" in name for name in everything(fresh))


def test_state_is_safetensors_and_json_only(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["state", "state.json", "state.safetensors"]
    assert json.loads((tmp_path / "state/state.json").read_text())["step"] == CONFIG.steps


def test_nothing_is_restored_from_nothing(tmp_path: Path) -> None:
    assert not trainer(tmp_path).state.restore(tmp_path / "state")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A folder with the checkpoint of step 12."""
    with pytest.raises(Stopped):
        trainer(tmp_path, progress=stop_after(14)).train()
    return tmp_path


def half_written(folder: Path) -> None:
    """The save was cut off while it wrote the new folder."""
    (folder / "state.new").mkdir()
    (folder / "state.new/state.safetensors").write_bytes(b"cut o")


def between_renames(folder: Path) -> None:
    """The save was cut off after it moved the old folder away and before it moved the new one into place."""
    shutil.copytree(folder / "state", folder / "state.new")
    (folder / "state").rename(folder / "state.old")


def before_cleaning(folder: Path) -> None:
    """The save was cut off before it dropped the old folder."""
    shutil.copytree(folder / "state", folder / "state.old")
    (folder / "state.old/state.json").write_text("stale")


@pytest.mark.parametrize("accident", [half_written, between_renames, before_cleaning])
def test_half_finished_save_is_recovered_from(accident: Callable[[Path], None], interrupted: Path, tmp_path: Path) -> None:
    accident(interrupted)
    resumed = trainer(interrupted)
    resumed.train()
    assert isinstance(resumed.source, SyntheticSource)
    assert resumed.source.served[0] == 12
    whole = trainer(tmp_path / "whole")
    whole.train()
    assert_same_bytes(resumed, whole)
    assert not (interrupted / "state.new").exists()
    assert not (interrupted / "state.old").exists()


def test_damaged_checkpoint_is_named(interrupted: Path) -> None:
    (interrupted / "state/state.safetensors").write_bytes(b"cut o")
    with pytest.raises(Failure, match=r"state: this checkpoint is damaged"):
        trainer(interrupted).train()


def test_checkpoint_of_another_model_is_refused(interrupted: Path) -> None:
    with pytest.raises(Failure, match=r"another model.*gate"):
        trainer(interrupted, Gated).train()
