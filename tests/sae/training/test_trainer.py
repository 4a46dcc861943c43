"""Training: it learns known features, keeps to its target, obeys every field of its config, and fails loudly."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.architecture import Architecture
from sae.architectures.batchtopk import BatchTopKSAE
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.config import Failure, InputError, SweepableConfig, parse_config
from sae.evaluation.metrics import PCA, Reconstruction
from sae.training.config import TrainConfig
from sae.training.normalize import sample
from sae.training.trainer import Trainer
from tests.sae.synthetic import SyntheticSource

CPU = torch.device("cpu")


def figures_on_new_rows(architecture: Architecture[Any], trainer: Trainer) -> tuple[float, float]:
    """FVU and L0 on rows that were not trained on, in the units of the source."""
    assert isinstance(trainer.source, SyntheticSource)
    x_BD, model, normalizer = trainer.source.sample(4096, "test"), architecture.core_model.eval(), trainer.normalizer
    with torch.no_grad():
        codes = model.encode(normalizer.normalize(x_BD))
        reconstruction = Reconstruction(x_BD.mean(0))
        reconstruction.update(x_BD, normalizer.restore(model.decode(codes)))
    return reconstruction.fvu(), float(codes.l0())


def fvu_of_pca(source: SyntheticSource, components: int) -> float:
    x_BD = source.sample(4096, "test")
    reconstruction = Reconstruction(x_BD.mean(0))
    reconstruction.update(x_BD, PCA(source.sample(4096, "for the PCA")).reconstruct(x_BD, components))
    return reconstruction.fvu()


@pytest.mark.parametrize(("cls", "share_of_pca"), [(VanillaSAE, 0.6), (TopKSAE, 0.25)])
def test_learns_far_better_than_a_pca_of_equal_rank_and_comes_to_its_target(
    cls: type[Architecture[Any]], share_of_pca: float
) -> None:
    source, architecture = SyntheticSource(), cls(d_in=16, d_sae=48, l0_target=3)
    config = parse_config(TrainConfig, {"steps": 800, "batch_size": 128, "lr": 1e-2, "l0_target": 3, "held_out_rows": 0})
    trainer = Trainer(architecture, source, config, device=CPU)
    trainer.train()
    fvu, l0 = figures_on_new_rows(architecture, trainer)
    assert fvu < share_of_pca * fvu_of_pca(source, components=3)
    assert l0 == pytest.approx(3, rel=0.1)
    norms_F = architecture.core_model.decoder.weight.detach().norm(dim=1)
    torch.testing.assert_close(norms_F, torch.ones(48))


BASE: dict[str, Any] = {
    "steps": 20, "batch_size": 8, "l0_target": 2, "log_every": 4, "checkpoint_every": 50, "dead_window": 24, "held_out_rows": 32,
    "lr": 1e-2, "resample": {"every": 7, "pool": 50},
}  # fmt: skip


def run(tmp_path: Path, cls: type[Architecture[Any]] = VanillaSAE, **changes: Any) -> tuple[str, Trainer, list[str]]:
    """A short run: digest of weights and curves, the trainer, and the names of all saves."""
    config = parse_config(TrainConfig, BASE | changes, "train")
    architecture = cls(d_in=16, d_sae=32, l0_target=config.l0_target, seed=config.seed)
    source = SyntheticSource(scale=3.0)
    trainer = Trainer(architecture, source, config, device=CPU, held_out=source, checkpoint=tmp_path / "state")
    bias = getattr(architecture.init._encoder.raw, "bias", None)
    if bias is not None:
        with torch.no_grad():  # so that there are dead latents
            bias[:5] = -50
    saves: list[str] = []
    save = trainer.state.save

    def note(directory: Path) -> None:
        saves.append(f"step {trainer.state.step}")
        save(directory)

    trainer.state.save = note  # type: ignore[method-assign]
    trainer.train()
    digest = hashlib.sha256(repr(trainer.state.history).encode())
    for tensor in trainer.trainable.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest(), trainer, saves


FREE, RESAMPLE, AUXK = {"optimizer": {"name": "schedule_free"}}, {"dead_latents": "resample"}, {"dead_latents": "auxk"}
STATE = "the state of an earlier run, which the test writes"

# Another value of each field, and what else a run must have for the field to matter.
OTHER_VALUES: dict[str, Any] = {
    "steps": 21,
    "batch_size": 9,
    "lr": 2e-2,
    "l0_target": 30,
    "coefficients": {"L2_loss": 2.0},
    "dead_latents": "resample",
    "dead_window": 10_000,
    "normalize": "none",
    "center": "mean",
    "precision": "bfloat16",
    "clip_grad_norm": 1e-3,
    "average": 0.9,
    "seed": 1,
    "start_from": STATE,
    "log_every": 5,
    "held_out_rows": 8,
    "checkpoint_every": 3,
    "optimizer.name": "radam",
    "optimizer.betas": [0.8, 0.99],
    "optimizer.eps": 1e-2,
    "optimizer.weight_decay": 0.1,
    "optimizer.momentum": (0.5, {"optimizer": {"name": "sgd"}}),
    "optimizer.amsgrad": (True, {"batch_size": 2}),
    "schedule.warmup": 3,
    "schedule.warmup_from": (0.5, {"schedule": {"warmup": 5}}),
    "schedule.cooldown": 0,
    "schedule.cooldown_to": 0.5,
    "schedule.end_plateau": 3,
    "schedule.resample_warmup": (0, RESAMPLE),
    "schedule.resample_from": (0.5, RESAMPLE | {"schedule": {"resample_warmup": 4}}),
    "schedule.interpolation": ("linear", {"schedule": {"warmup": 6}}),
    "l0_targeting.controller": "basic",
    "l0_targeting.coefficient": "L2_loss",
    "l0_targeting.start": 0.5,
    "l0_targeting.begin_below": 10.0,
    "l0_targeting.trim": (False, {"l0_target": 14}),  # about what these few steps end with
    "l0_targeting.range": 1.0001,
    "l0_targeting.adjustment": (0.1, {"l0_targeting": {"controller": "basic"}}),
    "l0_targeting.average": 1,
    "l0_targeting.delay": 5,
    "l0_targeting.warmup": 5,
    "l0_targeting.hiatus": (4, RESAMPLE),
    "l0_targeting.resample_warmup": (3, RESAMPLE | {"l0_targeting": {"hiatus": 0}}),
    "l0_targeting.pre_deflation": 0.3,
    "resample.every": (6, RESAMPLE),
    "resample.delay": (5, RESAMPLE),
    "resample.finish": (16, RESAMPLE),
    "resample.pool": (20, RESAMPLE),
    "resample.decoder_direction": ("error", RESAMPLE),
    "resample.encoder_direction": ("model_in", RESAMPLE),
    "resample.encoder_scale": (0.5, RESAMPLE),
    "resample.reset_optimizer": (False, RESAMPLE | {"batch_size": 2, "dead_window": 2}),  # they fired, so they have moments
    "auxk.coefficient": (1.0, AUXK),
    "auxk.k": (1, AUXK),
    "early_stopping.min": {"l0": {8: 1000.0}},
    "early_stopping.max": {"l0": {8: 0.0}},
    "early_stopping.patience": (1, {"early_stopping": {"figure": "lr"}}),
    "early_stopping.figure": ("lr", {"early_stopping": {"patience": 1}, "log_every": 1}),
}
# What a stage does with the run's state when the run is over: tests/pipeline tries it.
NOT_OF_THE_TRAINER = {"keep_state"}


def fields(cls: type[SweepableConfig], prefix: str = "") -> set[str]:
    """Dotted names of all fields of a config and of the configs in it."""
    found: set[str] = set()
    for name, field in cls.model_fields.items():
        inner = field.annotation
        is_config = isinstance(inner, type) and issubclass(inner, SweepableConfig)
        found |= fields(inner, f"{prefix}{name}.") if is_config else {prefix + name}  # type: ignore[arg-type]
    return found


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both, section by section."""
    both = {name: {**base[name], **more[name]} for name in base.keys() & more.keys() if isinstance(more[name], dict)}
    return base | more | both


def test_every_field_is_tried_below() -> None:
    assert set(OTHER_VALUES) == fields(TrainConfig) - NOT_OF_THE_TRAINER


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_changes_what_a_run_does(field: str, tmp_path: Path) -> None:
    value, more = OTHER_VALUES[field] if isinstance(OTHER_VALUES[field], tuple) else (OTHER_VALUES[field], {})
    if value is STATE:
        run(tmp_path / "earlier", steps=10)
        value = str(tmp_path / "earlier/state")
    more = merged({"resample": BASE["resample"]}, more)
    section, _, name = field.rpartition(".")
    changes = merged(more, {section: {name: value}} if section else {name: value})
    # A latent that is dead under a ReLU has no positive pre-activation that AuxK could choose among.
    cls = TopKSAE if field == "auxk.k" else VanillaSAE
    base, _, saves = run(tmp_path / "base", cls, **more)
    changed, _, other_saves = run(tmp_path / "changed", cls, **changes)
    assert (changed, other_saves) != (base, saves)


@pytest.mark.parametrize("more", [{}, RESAMPLE, AUXK, FREE, {"precision": "float16"}], ids=str)
def test_same_config_gives_the_same_bytes(more: dict[str, Any], tmp_path: Path) -> None:
    one = run(tmp_path / "one", **more)[0]
    torch.rand(7)
    assert run(tmp_path / "again", **more)[0] == one


def test_learning_rate_follows_the_schedule_and_the_coefficient_the_controller(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"schedule": {"warmup": 4, "cooldown": 4}, "log_every": 1}
    _, trainer, _ = run(tmp_path, **changes, l0_targeting={"controller": "basic", "average": 1, "warmup": 2})
    rates = [figures["lr"] for _, figures in trainer.state.history]
    assert rates == pytest.approx([1e-2 * trainer.schedule.factor(step) for step in range(20)])
    assert trainer.state.optimizer.param_groups[0]["lr"] == rates[-1]
    coefficient = 0.02
    for step, (_, figures) in enumerate(trainer.state.history):
        coefficient *= 2 ** (math.copysign(3e-3, figures["l0"] - 2) * min(1, step / 2))
        assert figures["sparsity_coefficient"] == pytest.approx(coefficient)


def test_schedule_free_does_its_warmup_itself_and_has_no_cooldown(tmp_path: Path) -> None:
    _, trainer, _ = run(tmp_path, **FREE, schedule={"warmup": 5, "cooldown": 10}, log_every=1)
    assert {figures["lr"] for _, figures in trainer.state.history} == {1e-2}
    assert trainer.state.optimizer.param_groups[0]["warmup_steps"] == 5


class Slow(VanillaSAE):
    """Its encoder's bias learns at a tenth of the rate, and comes first of all parameters."""

    def setup(self) -> None:
        super().setup()
        self.init._encoder.raw.bias.lr_multiplier = 0.1


def test_multiplier_of_a_parameter_is_kept_to_throughout_a_run(tmp_path: Path) -> None:
    _, trainer, _ = run(tmp_path, Slow, log_every=1)
    assert [figures["lr"] for _, figures in trainer.state.history] == [1e-2 * trainer.schedule.factor(s) for s in range(20)]
    rates = {group["lr_multiplier"]: group["lr"] for group in trainer.state.optimizer.param_groups}
    assert rates[0.1] == pytest.approx(0.1 * rates[1.0])


def test_first_step_by_hand(tmp_path: Path) -> None:
    """Adam's first step moves each weight by the learning rate against its gradient's sign; then rows are normalised."""
    at_once = {"l0_targeting": {"begin_below": 1}}
    _, trainer, _ = run(tmp_path, steps=1, schedule={"warmup": 0, "cooldown": 0}, center="none", **at_once)
    model = VanillaSAE(d_in=16, d_sae=32).core_model
    encoder, decoder = model.encoder["encoder_pre"]["lin"], model.decoder
    with torch.no_grad():
        encoder.bias[:5] = -50
    x_BD, _ = next(SyntheticSource(scale=3.0).batches(8, seed=0))
    x_BD = trainer.normalizer.normalize(x_BD)
    z_BF = (x_BD @ encoder.weight.T + encoder.bias).relu()
    loss = (z_BF @ decoder.weight + decoder.bias - x_BD).square().mean() + 0.02 * z_BF.sum() / 8
    loss.backward()
    d, g = decoder.weight.detach(), decoder.weight.grad
    g_FD = g - (g * d).sum(1, keepdim=True) * d

    def stepped(weight: Tensor, gradient: Tensor) -> Tensor:
        return weight.detach() - 1e-2 * gradient / (gradient.abs() + 1e-8)

    result = trainer.trainable.model
    torch.testing.assert_close(
        result.encoder["encoder_pre"]["lin"].weight.detach(), stepped(encoder.weight, encoder.weight.grad), rtol=1e-3, atol=1e-4
    )
    expected_FD = stepped(d, g_FD)
    expected_FD /= expected_FD.norm(dim=1, keepdim=True)
    torch.testing.assert_close(result.decoder.weight.detach(), expected_FD, rtol=1e-3, atol=1e-4)


def test_curves_hold_every_figure_at_every_point(tmp_path: Path) -> None:
    _, trainer, _ = run(tmp_path, steps=10, log_every=4)
    assert [step for step, _ in trainer.state.history] == [4, 8, 10]
    names = {"loss", "l0", "l1", "fvu", "lr", "L2_loss", "sparsity_loss", "sparsity_coefficient", "dead_latents"}
    names |= {"held_out_l0", "held_out_fvu"}
    assert all(set(figures) == names for _, figures in trainer.state.history)


@pytest.mark.parametrize(("window", "dead"), [(64, 5), (65, 0)])
def test_dead_latents_are_those_that_were_silent_for_the_window(window: int, dead: int) -> None:
    architecture = VanillaSAE(d_in=16, d_sae=32)
    with torch.no_grad():
        architecture.core_model.encoder["encoder_pre"]["lin"].bias[:5] = -100  # these never fire
        architecture.core_model.encoder["encoder_pre"]["lin"].bias[5:] = 100  # these always do
    config = TrainConfig(steps=4, batch_size=16, dead_window=window)
    assert Trainer(architecture, SyntheticSource(), config, device=CPU).train()["dead_latents"] == dead


@pytest.mark.parametrize("scale", [0.01, 1.0, 250.0])
def test_result_does_not_depend_on_the_scale_of_the_activations(scale: float) -> None:
    results = []
    for factor in (1.0, scale):
        architecture = VanillaSAE(d_in=16, d_sae=32)
        config = TrainConfig(steps=20, batch_size=64, l0_target=3)
        trainer = Trainer(architecture, SyntheticSource(scale=factor), config, device=CPU)
        trainer.train()
        results.append(figures_on_new_rows(architecture, trainer)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-3)


class BreakingSource(SyntheticSource):
    """Gives NaN from batch 10 on."""

    def sample(self, count: int, *names: str) -> Tensor:
        broken = names[0] == "seed 0" and int(names[-1].split()[1]) >= 10  # not of the statistics
        return super().sample(count, *names) * (float("nan") if broken else 1.0)


@pytest.mark.parametrize("log_every", [2, 1000])
def test_loss_that_is_not_finite_ends_the_run_and_the_last_good_checkpoint_stays(log_every: int, tmp_path: Path) -> None:
    config = TrainConfig(steps=40, batch_size=16, log_every=log_every, checkpoint_every=4)
    checkpoint = tmp_path / "state"
    trainer = Trainer(VanillaSAE(d_in=16, d_sae=8), BreakingSource(), config, device=CPU, checkpoint=checkpoint)
    with pytest.raises(Failure, match=rf"the loss is not finite at step 12; the checkpoint in {checkpoint} is kept"):
        trainer.train()
    kept = Trainer(VanillaSAE(d_in=16, d_sae=8), SyntheticSource(), config, device=CPU)
    assert kept.state.restore(checkpoint)
    assert kept.state.step == 8
    assert all(bool(p.isfinite().all()) for p in kept.trainable.parameters())


def test_failure_before_any_checkpoint_promises_none(tmp_path: Path) -> None:
    config = TrainConfig(steps=12, batch_size=16, checkpoint_every=100)
    trainer = Trainer(VanillaSAE(d_in=16, d_sae=8), BreakingSource(), config, device=CPU, checkpoint=tmp_path / "state")
    with pytest.raises(Failure) as caught:
        trainer.train()
    assert "kept" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"coefficients": {"sparsty_loss": 1.0}}, r"train\.coefficients: .*did you mean 'sparsity_loss'"),
        ({"l0_targeting": {"coefficient": "sparsty_loss"}}, r"train\.l0_targeting\.coefficient: .*did you mean 'sparsity_loss'"),
        ({"optimizer": {"betas": [0.9, 1.5]}}, r"train\.optimizer\.betas\.1: "),
        ({"optimizer": {"momentum": 0.9}}, r"train\.optimizer\.momentum: .*found adam"),
        ({"early_stopping": {"max": {"held_out_fv": {1: 1.0}}}}, r"train\.early_stopping\.max: .*did you mean 'held_out_fvu'"),
        ({"schedule": {"warmup": 19}}, r"train\.schedule: .*fit"),
    ],
)
def test_mistakes_are_refused_by_field(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        run(tmp_path, **changes)


def test_architecture_without_a_sparsity_loss_has_nothing_to_steer() -> None:
    config = TrainConfig(steps=2, batch_size=16, l0_target=3)
    trainer = Trainer(TopKSAE(d_in=16, d_sae=32, l0_target=3), SyntheticSource(), config, device=CPU)
    figures = trainer.train()
    assert trainer.coefficients() == {}
    assert "sparsity_coefficient" not in figures
    assert figures["l0"] == 3


@pytest.mark.parametrize("log_every", [1, 1000])
def test_weights_that_are_not_finite_are_not_saved(log_every: int, tmp_path: Path) -> None:
    def poison(steps: int) -> None:
        if trainer.state.step == 6:
            with torch.no_grad():
                trainer.architecture.init._decoder.raw.weight[3, 3] = float("inf")

    config = parse_config(TrainConfig, BASE | {"log_every": log_every, "checkpoint_every": 2})
    architecture = TopKSAE(d_in=16, d_sae=32, l0_target=2)
    trainer = Trainer(architecture, SyntheticSource(), config, checkpoint=tmp_path / "state", progress=poison)
    with pytest.raises(Failure, match=r"not finite at step [78].*is kept.*expected a lower train\.lr"):
        trainer.train()
    kept = Trainer(TopKSAE(d_in=16, d_sae=32, l0_target=2), SyntheticSource(), config)
    assert kept.state.restore(tmp_path / "state")
    assert kept.state.step == 6


def test_asked_to_stop_it_does_not_save_weights_that_are_not_finite(tmp_path: Path) -> None:
    calls = iter(range(100))
    config = parse_config(TrainConfig, BASE | {"log_every": 1000})
    trainer = Trainer(
        VanillaSAE(d_in=16, d_sae=8), BreakingSource(), config, checkpoint=tmp_path / "state", stop=lambda: next(calls) == 15
    )
    with pytest.raises(Failure, match="weights are not finite at step 15"):
        trainer.train()
    assert not (tmp_path / "state").exists()


def test_architecture_and_source_of_other_widths_are_refused() -> None:
    with pytest.raises(InputError, match=r"VanillaSAE: .*differ in width.*found d_in 8, d_out 8, expected d_in 16, d_out 16"):
        Trainer(VanillaSAE(d_in=8, d_sae=8), SyntheticSource(), TrainConfig())
    with pytest.raises(InputError, match=r"VanillaSAE: .*the held-out source differ in width.*found d_in 16.*expected d_in 8"):
        Trainer(VanillaSAE(d_in=16, d_sae=8), SyntheticSource(), TrainConfig(), held_out=SyntheticSource(d_in=8))


@pytest.mark.parametrize(("center", "expected"), [("none", 0.0), ("mean", None), ("geometric_median", None)])
def test_decoder_bias_starts_at_the_centre_of_the_normalised_targets(center: str, expected: float | None) -> None:
    config = parse_config(TrainConfig, BASE | {"center": center})
    trainer = Trainer(VanillaSAE(d_in=16, d_sae=8), SyntheticSource(offset=2.0), config)
    bias = trainer.architecture.init._decoder.raw.bias.detach()
    if expected is not None:
        assert not bias.any()
        return
    x_ND, _ = sample(SyntheticSource(offset=2.0), 0)
    middle_D = trainer.normalizer.normalize(x_ND).mean(0)
    assert torch.allclose(bias, middle_D, rtol=1e-4) == (center == "mean")
    assert float((bias - middle_D).norm()) < 0.1 * float(middle_D.norm())


def test_averaged_and_schedule_free_weights_keep_the_dictionary_at_unit_norm(tmp_path: Path) -> None:
    for name, more in (("average", {"average": 0.9}), ("free", FREE)):
        _, trainer, _ = run(tmp_path / name, **more)
        norms_F = trainer.architecture.init._decoder.raw.weight.detach().norm(dim=1)
        torch.testing.assert_close(norms_F, torch.ones(32))


def test_batchtopk_keeps_its_l0_with_weights_that_its_threshold_was_not_learnt_for(tmp_path: Path) -> None:
    for name, more in (("average", {"average": 0.99}), ("free", FREE)):
        settings = {"steps": 150, "batch_size": 128, "log_every": 150, "l0_target": 4} | more
        _, trainer, _ = run(tmp_path / name, BatchTopKSAE, **settings)
        assert trainer.measure(trainer.source, 40_000, seed=5)["l0"] == pytest.approx(4, rel=0.02)
        untrimmed = settings | {"l0_targeting": {"trim": False}}
        _, trainer, _ = run(tmp_path / f"{name} untrimmed", BatchTopKSAE, **untrimmed)
        assert trainer.measure(trainer.source, 40_000, seed=5)["l0"] != pytest.approx(4, rel=0.02)


def test_early_stop_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    _, trainer, saves = run(tmp_path, early_stopping={"max": {"held_out_l0": {8: 0.0}}})
    assert trainer.state.step == 8
    assert trainer.state.stopping.reason is not None
    assert saves == ["step 8"]
