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
from sae.architectures.batchtopk import BatchTopKSAE
from sae.architectures.jumprelu import JumpReLUSAE
from sae.architectures.p_anneal import PAnnealSAE
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.components import EMAFreqTracker, L2Loss
from sae.config import Failure, SweepableConfig, parse_config
from sae.core import Seq
from sae.training.config import TrainConfig
from sae.training.trainer import Stopped as AskedToStop
from sae.training.trainer import Trainer
from tests.sae.architecture.test_seed_examples import Gated
from tests.sae.synthetic import SyntheticSource

BASE: dict[str, Any] = {
    "steps": 24, "batch_size": 64, "l0_target": 3, "checkpoint_every": 4, "log_every": 5, "dead_window": 500,
    "held_out_rows": 128,
}  # fmt: skip
CONFIG = parse_config(TrainConfig, BASE)
RESAMPLE = {"dead_latents": "resample", "dead_window": 128, "resample": {"every": 6, "pool": 100, "finish": 0.2}}
VARIANTS: dict[str, dict[str, Any]] = {
    "average": {"average": 0.9},
    "schedule_free": {"optimizer": {"name": "schedule_free"}},
    "schedule_free averaged": {"optimizer": {"name": "schedule_free"}, "average": 0.9},
    "resampling": RESAMPLE,
    "resampling averaged": RESAMPLE | {"average": 0.9},
    "auxk": {"dead_latents": "auxk", "dead_window": 128, "auxk": {"k": 2}},
    "both": RESAMPLE | {"dead_latents": "both"},
    "float16": {"precision": "float16", "clip_grad_norm": 1.0},
    "bfloat16": {"precision": "bfloat16"},
    "patience": {"early_stopping": {"patience": 2, "figure": "loss"}, "log_every": 1, "lr": 0.3},
    "pid": {"l0_targeting": {"controller": "pid", "average": 3}},
    "radam": {"optimizer": {"name": "radam"}},
    "nadam": {"optimizer": {"name": "nadam"}},
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9}, "lr": 0.1},
    "rmsprop": {"optimizer": {"name": "rmsprop", "momentum": 0.5}},
    "adagrad": {"optimizer": {"name": "adagrad"}},
    "adamax": {"optimizer": {"name": "adamax"}},
    "amsgrad": {"optimizer": {"name": "adamw", "amsgrad": True}},
    "per_dim": {"normalize": "per_dim"},
    "layer_norm": {"normalize": "layer_norm"},
}


class Noisy(Architecture[SweepableConfig]):
    """A model with randomness of its own."""

    @model_prop
    def model(self) -> SAE:
        encoder = Seq(drop=nn.Dropout(0.3), lin=self.init.encoder)
        return SAE(encoder_pre=encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


def trainer(
    directory: Path, cls: type[Architecture[Any]] = VanillaSAE, config: dict[str, Any] | None = None, **more: Any
) -> Trainer:
    parsed = parse_config(TrainConfig, BASE | (config or {}))
    architecture = cls(d_in=16, d_sae=32, l0_target=parsed.l0_target, seed=parsed.seed)
    run = Trainer(architecture, SyntheticSource(), parsed, checkpoint=directory / "state", **more)
    if parsed.dead_latents != "none" and cls is VanillaSAE:
        with torch.no_grad():  # so that there are some
            architecture.init._encoder.raw.bias[:6] = -50
    return run


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
    assert one.state.controller.state() == other.state.controller.state()
    assert one.state.stopping.state() == other.state.stopping.state()
    assert one.state.scaler.state_dict() == other.state.scaler.state_dict()
    assert one.state.step == other.state.step


@pytest.mark.parametrize("cls", [VanillaSAE, TopKSAE, BatchTopKSAE, PAnnealSAE, JumpReLUSAE, Gated, Noisy])
def test_run_stopped_after_any_step_ends_with_the_same_bytes(cls: type[Architecture[Any]], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", cls)
    whole.train()
    stops = (1, 4, 7, 8, 12, 16, 20, 24) if cls is VanillaSAE else (10,)  # every checkpoint, and none
    for stop in stops:
        directory = tmp_path / f"stopped after {stop}"
        with pytest.raises(Stopped):
            trainer(directory, cls, progress=stop_after(stop)).train()
        torch.rand(stop)  # whatever else moves the global generator
        resumed = trainer(directory, cls)
        resumed.train()
        assert_same_bytes(resumed, whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_run_stopped_at_any_checkpoint_ends_with_the_same_bytes_whatever_it_carries(variant: str, tmp_path: Path) -> None:
    config, held_out = VARIANTS[variant], SyntheticSource(offset=0.1)
    whole = trainer(tmp_path / "whole", config=config, held_out=held_out)
    whole.train()
    assert (whole.state.step < 24) == (variant == "patience")
    for stop in [4, 12, 16, 24] if variant in ("average", "resampling", "schedule_free") else [10]:
        if stop > whole.state.step:
            continue
        directory = tmp_path / f"stopped after {stop}"
        with pytest.raises(Stopped):
            trainer(directory, config=config, held_out=held_out, progress=stop_after(stop)).train()
        resumed = trainer(directory, config=config, held_out=held_out)
        resumed.train()
        assert_same_bytes(resumed, whole)


def test_variants_that_need_dead_latents_have_some(tmp_path: Path) -> None:
    run = trainer(tmp_path, config=RESAMPLE)
    run.train()
    dead = [figures["dead_latents"] for _, figures in run.state.history]
    assert dead[0] >= 6
    assert dead[1] < 6
    run = trainer(tmp_path / "auxk", config=VARIANTS["auxk"])
    run.train()
    assert [figures["auxk_loss"] > 0 for _, figures in run.state.history][:2] == [True, True]


@pytest.mark.parametrize("variant", ["plain", "average", "schedule_free", "resampling", "float16"])
def test_measuring_changes_nothing_by_a_bit(variant: str, tmp_path: Path) -> None:
    config = VARIANTS.get(variant, {})
    runs = []
    for name, more in (
        ("with", {"held_out": SyntheticSource(), "config": config | {"log_every": 1}}),
        ("without", {"config": config}),
    ):
        run = trainer(tmp_path / name, cls=VanillaSAE, **more)
        run.train()
        runs.append(everything(run))
    assert [name for name in runs[0] if runs[0][name].numpy().tobytes() != runs[1][name].numpy().tobytes()] == []


@pytest.mark.parametrize("variant", ["average", "schedule_free", "plain"])
def test_measuring_after_the_end_changes_nothing_either_and_is_of_what_is_saved(variant: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, config=VARIANTS.get(variant, {}), held_out=SyntheticSource())
    figures = run.train()
    before = everything(run)
    measured = run.measure(SyntheticSource(), CONFIG.held_out_rows)
    assert measured == {"l0": figures["held_out_l0"], "fvu": figures["held_out_fvu"]}
    after = everything(run)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_threshold_of_batchtopk_goes_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, BatchTopKSAE)
    run.train()
    thresholds = [tensor for name, tensor in everything(run).items() if ".threshold." in name and not name.endswith("log_factor")]
    assert len(thresholds) == 2
    assert all(float(t) > 0 for t in thresholds)
    fresh = trainer(tmp_path, BatchTopKSAE)
    fresh.state.restore(tmp_path / "state")
    assert_same_bytes(fresh, run)


def test_run_that_ends_early_is_saved_where_it_ended(tmp_path: Path) -> None:
    config = {"early_stopping": {"max": {"loss": {5: 0.0}}}, "checkpoint_every": 1000}
    run = trainer(tmp_path, config=config)
    run.train()
    fresh = trainer(tmp_path, config=config)
    assert fresh.state.restore(tmp_path / "state")
    assert fresh.state.step == 5
    assert fresh.state.stopping.reason == run.state.stopping.reason
    assert fresh.train() == run.state.history[-1][1]
    assert fresh.state.step == 5


def test_run_that_is_asked_to_stop_saves_its_last_step(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()
    calls = iter(range(100))
    with pytest.raises(AskedToStop, match="stopped after 7 steps"):
        trainer(tmp_path, stop=lambda: next(calls) == 7).train()
    resumed = trainer(tmp_path)
    assert json.loads((tmp_path / "state/state.json").read_text())["step"] == 7
    resumed.train()
    assert_same_bytes(resumed, whole)


def test_settings_of_the_optimizer_are_the_configs_not_the_checkpoints(tmp_path: Path) -> None:
    trainer(tmp_path, config={"optimizer": {"weight_decay": 0.1}}).train()
    fresh = trainer(tmp_path, config={"optimizer": {"weight_decay": 0.2}})
    fresh.state.restore(tmp_path / "state")
    assert fresh.state.optimizer.param_groups[0]["weight_decay"] == 0.2


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
    assert isinstance(resumed.source, SyntheticSource)
    resumed.source.served.clear()  # of the statistics
    resumed.train()
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
    assert isinstance(resumed.source, SyntheticSource)
    resumed.source.served.clear()  # of the statistics
    resumed.train()
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


def test_a_file_of_the_checkpoint_that_is_missing_is_named(interrupted: Path) -> None:
    (interrupted / "state/state.json").unlink()
    with pytest.raises(Failure, match=r"state: this checkpoint is damaged.*to begin anew, delete it"):
        trainer(interrupted).train()
