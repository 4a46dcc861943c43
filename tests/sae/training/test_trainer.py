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
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.config import Failure, InputError, parse_config
from sae.evaluation.metrics import PCA, Reconstruction
from sae.training.trainer import TrainConfig, Trainer, input_scale
from tests.sae.synthetic import SyntheticSource

CPU = torch.device("cpu")


def figures_on_new_rows(architecture: Architecture[Any], trainer: Trainer) -> tuple[float, float]:
    """FVU and L0 on rows that were not trained on, in the units of the source."""
    assert isinstance(trainer.source, SyntheticSource)
    x_BD, model, scale = trainer.source.sample(4096, "test"), architecture.core_model.eval(), trainer.input_scale
    with torch.no_grad():
        codes = model.encode(x_BD * scale)
        reconstruction = Reconstruction(x_BD.mean(0))
        reconstruction.update(x_BD, model.decode(codes) / scale)
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
    config = parse_config(
        TrainConfig, {"steps": 800, "batch_size": 256, "lr": 1e-2, "l0_target": 3, "l0_targeting": {"adjustment": 1e-2}}
    )
    trainer = Trainer(architecture, source, config, device=CPU)
    trainer.train()
    fvu, l0 = figures_on_new_rows(architecture, trainer)
    assert fvu < share_of_pca * fvu_of_pca(source, components=3)
    assert l0 == pytest.approx(3, rel=0.1)
    norms_F = architecture.core_model.decoder.weight.detach().norm(dim=1)
    torch.testing.assert_close(norms_F, torch.ones(48))


def run(tmp_path: Path, **changes: Any) -> tuple[str, Trainer, list[str]]:
    """A short run: digest of weights and curves, the trainer, and the names of all saves."""
    base = {"steps": 12, "batch_size": 4, "l0_target": 2, "log_every": 4, "checkpoint_every": 50, "dead_window": 100}
    config = parse_config(TrainConfig, base | changes, "train")
    architecture = VanillaSAE(d_in=16, d_sae=32, l0_target=config.l0_target, seed=config.seed)
    source = SyntheticSource(scale=3.0)
    trainer = Trainer(architecture, source, config, device=CPU, checkpoint=tmp_path / "state")
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


OTHER_VALUES: dict[str, Any] = {
    "steps": 13,
    "batch_size": 5,
    "lr": 2e-3,
    "betas": [0.8, 0.999],
    "l0_target": 30,
    "coefficients": {"L2_loss": 2.0},
    "l0_targeting": {"adjustment": 0.5},
    "schedule": {"warmup": 0},
    "normalize": "none",
    "dead_window": 1,
    "seed": 1,
    "log_every": 5,
    "checkpoint_every": 3,
}


def test_every_field_is_tried_below() -> None:
    assert set(OTHER_VALUES) == set(TrainConfig.model_fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_changes_what_a_run_does(field: str, tmp_path: Path) -> None:
    base, _, saves = run(tmp_path / "base")
    again, _, _ = run(tmp_path / "again")
    changed, _, other_saves = run(tmp_path / "changed", **{field: OTHER_VALUES[field]})
    assert base == again
    assert (changed, other_saves) != (base, saves)


@pytest.mark.parametrize(
    "changes",
    [
        {"l0_targeting": {"controller": "none"}},
        {"l0_targeting": {"start": 0.5}},
        {"l0_targeting": {"warmup": 0}},
        {"l0_targeting": {"coefficient": "L2_loss"}},
        {"schedule": {"cooldown": 0}},
        {"schedule": {"warmup": 3, "warmup_from": 0.5}},
        {"schedule": {"cooldown_to": 0.5}},
    ],
    ids=str,
)
def test_every_field_of_targeting_and_schedule_changes_what_a_run_does(changes: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path / "base")[0] != run(tmp_path / "changed", **changes)[0]


def test_learning_rate_follows_the_schedule_and_the_coefficient_the_controller(tmp_path: Path) -> None:
    _, trainer, _ = run(tmp_path, lr=1e-2, schedule={"warmup": 4, "cooldown": 4}, log_every=1)
    rates = [figures["lr"] for _, figures in trainer.state.history]
    assert rates == pytest.approx([1e-2 * trainer.schedule.factor(step) for step in range(12)])
    coefficient = 0.02
    for step, (_, figures) in enumerate(trainer.state.history):
        coefficient *= 2 ** (math.copysign(3e-3, figures["l0"] - 2) * min(1, step / 2))  # 0.15 of 12 steps of warmup
        assert figures["sparsity_coefficient"] == pytest.approx(coefficient)


def test_first_step_by_hand(tmp_path: Path) -> None:
    """Adam's first step moves each weight by the learning rate against its gradient's sign; then rows are normalised."""
    trained, trainer, _ = run(tmp_path, steps=1, schedule={"warmup": 0, "cooldown": 0}, lr=1e-2)
    del trained
    model = VanillaSAE(d_in=16, d_sae=32).core_model
    encoder, decoder = model.encoder["encoder_pre"]["lin"], model.decoder
    source = SyntheticSource(scale=3.0)
    x_BD = next(source.batches(4, seed=0)) * (math.sqrt(16) / source.mean_norm())
    z_BF = (x_BD @ encoder.weight.T + encoder.bias).relu()
    loss = (z_BF @ decoder.weight + decoder.bias - x_BD).square().mean() + 0.02 * z_BF.sum() / 4
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


def test_input_scale_brings_the_mean_norm_to_the_root_of_the_width() -> None:
    source = SyntheticSource(scale=7.0)
    scale = input_scale(source, TrainConfig())
    assert float((source.sample(4096, "statistics") * scale).norm(dim=1).mean()) == pytest.approx(4.0, rel=1e-5)
    assert input_scale(source, TrainConfig(normalize="none")) == 1.0


class SilentSource(SyntheticSource):
    def mean_norm(self) -> float:
        return 0.0


def test_activations_of_no_norm_cannot_be_normalised() -> None:
    with pytest.raises(Failure, match="mean norm"):
        Trainer(VanillaSAE(d_in=16, d_sae=8), SilentSource(), TrainConfig(), device=CPU)


class BreakingSource(SyntheticSource):
    """Gives NaN from batch 10 on."""

    def sample(self, count: int, *names: str) -> Tensor:
        broken = names[-1].startswith("batch") and int(names[-1].split()[1]) >= 10
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
        ({"betas": [0.9, 1.5]}, r"train\.betas\.1: "),
        ({"schedule": {"warmup": 13}}, r"train\.schedule: .*fit"),
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
