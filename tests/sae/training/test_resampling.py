"""Resampling: who is drawn, what dead latents become, and that nothing else moves.

Shapes: D dimensions of an input, E of a target, F latents, M of them dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from sae.architecture import Architecture
from sae.architectures.vanilla import VanillaSAE
from sae.components import EMAFreqTracker
from sae.components.parameters import DecoderRows, EncoderRows, FeatureParameter
from sae.config import InputError, derive_seed, parse_config
from sae.training.config import TrainConfig
from sae.training.optimizers import build_optimizer
from sae.training.resampling import ResampleConfig, Resampler, find_tracker
from sae.training.trainer import Trainer
from tests.sae.every_architecture import CASES, D_SAE, Case, RawSource

DEAD = [1, 4, 5, 20]
DEAD_F = torch.zeros(D_SAE, dtype=torch.bool).index_fill(0, torch.tensor(DEAD), True)
VANILLA = next(case for case in CASES if case.name == "vanilla")


def trained(case: Case, dead: list[int] = DEAD, steps: int = 5, source: Any = None, **config: Any) -> Trainer:
    """A few steps of training, after which some latents count as dead."""
    plan = {"steps": steps, "batch_size": 32, "l0_target": 3, "dead_window": 1000, "held_out_rows": 0}
    trainer = Trainer(case.build(), case.source() if source is None else source, parse_config(TrainConfig, plan | config))
    trainer.train()
    trainer.trainable.train()
    tracker_of(trainer).tokens_since_fired[dead] = 1000
    return trainer


def tracker_of(trainer: Trainer) -> EMAFreqTracker:
    tracker = find_tracker(trainer.model)
    assert tracker is not None
    return tracker


def resampler_of(trainer: Trainer, seed: int = 0, **config: Any) -> Resampler:
    parsed = parse_config(ResampleConfig, {"pool": 256} | config)
    return Resampler(trainer.architecture, trainer.source, trainer.normalizer, parsed, batch_size=64, seed=seed, window=1000)


def drawn(resampler: Resampler, count: int, step: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and reconstructions [M, …] that the resampler will draw; taken before it changes the model."""
    with torch.no_grad():
        x_ND, y_NE = resampler._pool(step)
        made_NE, loss_N = resampler._losses(x_ND, y_NE)
        chosen_M = resampler._draw(loss_N, count, step)
    return x_ND[chosen_M], y_NE[chosen_M], made_NE[chosen_M]


def unit(x_MD: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x_MD, dim=1)


def test_inputs_are_drawn_in_proportion_to_the_square_of_their_loss() -> None:
    loss_N = torch.tensor([1.0, 2.0, 3.0, 0.0, 5.0])
    counts = np.zeros(5)
    resamplers = resampler_of(trained(VANILLA))
    for step in range(4000):
        counts[int(resamplers._draw(loss_N, 1, step))] += 1
    assert counts[3] == 0
    expected = np.array([1, 4, 9, 25]) / 39 * 4000
    assert chisquare(counts[[0, 1, 2, 4]], expected).pvalue > 1e-3


def test_no_input_is_drawn_twice_and_one_without_loss_never() -> None:
    resampler = resampler_of(trained(VANILLA))
    assert sorted(resampler._draw(torch.tensor([1.0, 0.0, 3.0, 1e-6]), 10, 0).tolist()) == [0, 2, 3]
    assert sorted(resampler._draw(torch.zeros(3), 2, 0).unique().tolist())  # a perfect model: any will do


def test_losses_are_the_squared_errors_of_the_model_in_use() -> None:
    trainer = trained(VANILLA)
    before = {name: buffer.clone() for name, buffer in trainer.trainable.named_buffers()}
    x_ND, y_NE = resampler_of(trainer)._pool(5)
    with torch.no_grad():
        made_NE, loss_N = resampler_of(trainer)._losses(x_ND, y_NE)
    wide = y_NE.double().numpy() - made_NE.double().numpy()
    np.testing.assert_allclose(loss_N.numpy(), (wide**2).sum(1), rtol=1e-5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in trainer.trainable.named_buffers())
    assert trainer.model.training


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dead_rows_become_what_was_drawn_and_the_rest_stays_to_the_bit(case: Case) -> None:
    trainer = trained(case)
    resampler, init = resampler_of(trainer), trainer.architecture.init
    x_MD, y_ME, _ = drawn(resampler, len(DEAD))
    bias_E = init._decoder.raw.bias.detach().clone()
    before = {p: p.detach().clone() for p in trainer.trainable.parameters()}
    moments = {p: {k: v.clone() for k, v in trainer.state.optimizer.state[p].items()} for p in before}
    renewed_F = resampler.resample(5, trainer.state.optimizer)
    assert torch.equal(renewed_F, DEAD_F)

    center_D = bias_E if case.target_widths is None else resampler._pool(5)[0].mean(0)
    seen = set()
    for parameter, old in before.items():
        if not isinstance(parameter, FeatureParameter):
            assert torch.equal(parameter, old)
            continue
        assert torch.equal(parameter[~DEAD_F], old[~DEAD_F])
        if isinstance(parameter, DecoderRows):
            torch.testing.assert_close(parameter[DEAD_F].detach(), unit(y_ME - bias_E))
            seen.add(DecoderRows)
        elif isinstance(parameter, EncoderRows):
            scale = 0.2 * old[~DEAD_F].norm(dim=1).mean()
            torch.testing.assert_close(parameter[DEAD_F].detach(), scale * unit(x_MD - center_D))
            seen.add(EncoderRows)
        else:
            assert bool((parameter[DEAD_F] == parameter.reset_value).all())
        for key, value in trainer.state.optimizer.state[parameter].items():
            if value.shape == parameter.shape:
                assert not value[DEAD_F].any()
                assert torch.equal(value[~DEAD_F], moments[parameter][key][~DEAD_F])
    assert DecoderRows in seen
    for module in trainer.trainable.modules():
        if isinstance(module, EMAFreqTracker):
            assert not module.tokens_since_fired[DEAD_F].any()
            assert bool((module.frequency[DEAD_F] == module.initial).all())


def test_bias_goes_back_to_nought_and_a_threshold_to_its_start() -> None:
    for name, kind in (("vanilla", "encoder.bias"), ("jumprelu", "encoder.nonlinearity.log_threshold")):
        trainer = trained(next(case for case in CASES if case.name == name), lr=0.1, schedule={"warmup": 0})
        tensor = trainer.architecture.canonical_tensors()[kind]
        start = 0.0 if name == "vanilla" else float(np.log(trainer.architecture.cfg.threshold))
        assert not torch.allclose(tensor[DEAD_F], torch.full((4,), start))
        resampler_of(trainer).resample(5, trainer.state.optimizer)
        torch.testing.assert_close(tensor[DEAD_F].detach(), torch.full((4,), start))


def test_directions_of_the_original() -> None:
    for direction in ("error", "model_in"):
        trainer = trained(VANILLA)
        resampler = resampler_of(trainer, decoder_direction=direction, encoder_direction=direction, encoder_scale=0.5)
        x_MD, y_MD, made_MD = drawn(resampler, len(DEAD))
        init = trainer.architecture.init
        scale = 0.5 * init._encoder.raw.weight[~DEAD_F].detach().norm(dim=1).mean()
        resampler.resample(5, trainer.state.optimizer)
        expected = y_MD - made_MD if direction == "error" else x_MD
        torch.testing.assert_close(init._decoder.raw.weight[DEAD_F].detach(), unit(expected))
        torch.testing.assert_close(init._encoder.raw.weight[DEAD_F].detach(), scale * unit(expected))


def test_error_of_a_target_is_no_direction_for_an_encoder_of_another_width() -> None:
    trainer = trained(next(case for case in CASES if case.name == "transcoder"))
    with pytest.raises(InputError, match=r"train\.resample\.encoder_direction: .*expected input or model_in"):
        resampler_of(trainer, encoder_direction="error").resample(5, trainer.state.optimizer)


def test_a_single_dead_latent_of_a_transcoder_gets_a_direction() -> None:
    trainer = trained(next(case for case in CASES if case.name == "transcoder"), dead=[3])
    resampler_of(trainer).resample(5, trainer.state.optimizer)
    assert float(trainer.architecture.init._encoder.raw.weight[3].detach().norm()) > 0.01


def test_with_more_dead_latents_than_the_pool_holds_the_first_are_renewed() -> None:
    trainer = trained(VANILLA, dead=list(range(20)))
    weight = trainer.architecture.init._encoder.raw.weight
    alive = weight[20:].detach().norm(dim=1).mean()
    renewed_F = resampler_of(trainer, pool=6).resample(5, trainer.state.optimizer)
    assert renewed_F.nonzero().squeeze(-1).tolist() == list(range(6))
    torch.testing.assert_close(weight[:6].detach().norm(dim=1), (0.2 * alive).expand(6))  # of the living, not of the waiting
    assert tracker_of(trainer).dead(1000).nonzero().squeeze(-1).tolist() == list(range(6, 20))


def test_all_dead_and_none_dead() -> None:
    trainer = trained(VANILLA, dead=list(range(D_SAE)))
    assert bool(resampler_of(trainer).resample(5, trainer.state.optimizer).all())
    torch.testing.assert_close(trainer.architecture.init._encoder.raw.weight.detach().norm(dim=1), torch.full((D_SAE,), 0.2))
    before = [p.detach().clone() for p in trainer.trainable.parameters()]
    assert not resampler_of(trainer).resample(6, trainer.state.optimizer).any()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.trainable.parameters(), strict=True))


def test_optimizer_may_be_left_as_it_is() -> None:
    trainer = trained(VANILLA)
    weight = trainer.architecture.init._decoder.raw.weight
    before = trainer.state.optimizer.state[weight]["exp_avg_sq"].clone()
    resampler_of(trainer, reset_optimizer=False).resample(5, trainer.state.optimizer)
    assert torch.equal(trainer.state.optimizer.state[weight]["exp_avg_sq"], before)


RESAMPLED = {
    "steps": 40, "batch_size": 32, "l0_target": 3, "dead_window": 64, "log_every": 1, "lr": 1e-2, "normalize": "per_dim",
    "coefficients": {"sparsity_loss": 3.0}, "dead_latents": "resample", "resample": {"every": 10, "pool": 64, "finish": 0.3},
    "schedule": {"warmup": 0, "cooldown": 0, "resample_warmup": 4}, "l0_targeting": {"hiatus": 3, "resample_warmup": 0},
}  # fmt: skip


def run(**changes: Any) -> Trainer:
    trainer = Trainer(VANILLA.build(), VANILLA.source(), parse_config(TrainConfig, RESAMPLED | changes))
    with torch.no_grad():
        trainer.architecture.init._encoder.raw.bias[DEAD] = -100
    trainer.train()
    return trainer


def test_in_a_run_no_training_batch_is_lost_and_lr_and_targeting_pause() -> None:
    trainer, without = run(), run(dead_latents="none")
    assert isinstance(trainer.source, RawSource)
    assert isinstance(without.source, RawSource)
    served, expected = ([n for seed, n in t.source.served if seed == 0] for t in (trainer, without))
    assert served == expected
    pools = {seed for seed, _ in trainer.source.served} - {seed for seed, _ in without.source.served}
    assert derive_seed(0, "resampling", "pool of step 10") in pools
    assert pools <= {derive_seed(0, "resampling", f"pool of step {step}") for step in (10, 20)}  # and none in the last 0.3
    rates = [figures["lr"] for _, figures in trainer.state.history]
    assert rates[:10] == [1e-2] * 10
    assert rates[10:15] == pytest.approx([1e-3, 1e-2 * 0.1**0.75, 1e-2 * 0.1**0.5, 1e-2 * 0.1**0.25, 1e-2])
    coefficients = [figures["sparsity_coefficient"] for _, figures in trainer.state.history]
    assert coefficients[9] == coefficients[10] == coefficients[11] == coefficients[12] != coefficients[14]
    dead, before = (t.state.history for t in (trainer, without))
    assert dead[9][1]["dead_latents"] == before[9][1]["dead_latents"] >= len(DEAD)
    assert dead[10][1]["dead_latents"] == 0


def test_average_takes_renewed_rows_as_they_are() -> None:
    trainer = run(steps=11, average=0.9999, resample={"every": 10, "pool": 64, "finish": 0})
    assert trainer.state.average is not None
    assert all(bool(weight.isfinite().all()) for weight in trainer.state.average.weights.values())


def test_run_that_ends_early_ends_without_a_resampling() -> None:
    ended = {"early_stopping": {"max": {"loss": {10: 0.0}}}}
    trainer, plain = run(**ended), run(dead_latents="none", **ended)
    assert trainer.state.step == 10
    assert all(torch.equal(a, b) for a, b in zip(trainer.trainable.parameters(), plain.trainable.parameters(), strict=True))


def test_optimizers_without_moments_are_resampled_too() -> None:
    architecture: Architecture[Any] = VanillaSAE(d_in=12, d_sae=D_SAE)
    optimizer = build_optimizer(
        parse_config(TrainConfig, {"optimizer": {"name": "sgd"}}).optimizer,
        architecture.trainable,
        0.1,
        device=torch.device("cpu"),
    )
    trainer = trained(VANILLA)
    assert resampler_of(trainer).resample(5, optimizer).any()


def test_source_for_the_pool_has_a_seed_of_its_own_at_each_step() -> None:
    trainer = trained(VANILLA)
    pools: Iterator[Tensor] = (resampler_of(trainer)._pool(step)[0] for step in (5, 6, 5))
    one, other, again = pools
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (256, 12)
