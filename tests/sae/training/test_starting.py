"""Fine-tuning a saved SAE, and extending a run that was over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.architecture import load, save
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.config import Failure, InputError, parse_config
from sae.training.config import TrainConfig
from sae.training.normalize import Normalize
from sae.training.trainer import Trainer
from tests.sae.every_architecture import CASES, UNDECLARED, Case
from tests.sae.synthetic import SyntheticSource

KINDS: list[Normalize] = ["none", "sqrt_d", "per_dim", "layer_norm"]
BASE: dict[str, Any] = {
    "steps": 3, "batch_size": 32, "l0_target": 3, "held_out_rows": 0, "lr": 1e-2, "schedule": {"warmup": 0, "cooldown": 0},
}  # fmt: skip
VANILLA = next(case for case in CASES if case.name == "vanilla")


class Begun(Exception):
    """The run has begun; that was all that was wanted."""


def trainer(case: Case, seed: int = 0, checkpoint: Path | None = None, **config: Any) -> Trainer:
    parsed = parse_config(TrainConfig, BASE | {"seed": seed} | config)
    return Trainer(case.build(seed), case.source(), parsed, checkpoint=checkpoint)


def saved(case: Case, directory: Path, **config: Any) -> Path:
    run = trainer(case, **config)
    run.train()
    directory.mkdir(exist_ok=True)
    save(run.architecture, directory, hook_points=["a"], lineage={}, normalizer=run.normalizer)
    return directory


def begun(run: Trainer) -> Trainer:
    def stop() -> bool:
        raise Begun

    run.stop = stop
    with pytest.raises(Begun):
        run.train()
    return run


def reconstruction(run: Trainer, x_BD: Tensor) -> Tensor:
    run.trainable.eval()
    with torch.no_grad():
        return run.normalizer.restore(run.model(run.normalizer.normalize(x_BD)), x_BD)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [*CASES, UNDECLARED], ids=str)
def test_fine_tuning_starts_where_the_saved_one_ended(case: Case, kind: Normalize, tmp_path: Path) -> None:
    if kind == "layer_norm" and case.target_widths is not None:
        return  # there is no such thing
    directory = saved(case, tmp_path, normalize=kind)
    # Another seed: other initial weights, and other statistics of the sample.
    run = begun(trainer(case, seed=1, normalize=kind, start_from=str(directory)))
    x_BD, _ = case.source().rows(200)
    expected_BE = load(directory)(x_BD)
    near_B = ((reconstruction(run, x_BD) - expected_BE).abs() <= 1e-4 * expected_BE.abs().max()).all(1)
    assert float(near_B.float().mean()) >= 0.98  # a pre-activation may fall on the other side of a threshold
    rows_FE = run.architecture.init._decoder.raw.weight.detach()
    if case.name in ("vanilla", "topk", "jumprelu", "gated", "prolu"):
        torch.testing.assert_close(rows_FE.norm(dim=1), torch.ones(len(rows_FE)))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_whatever_this_run_would_normalise_by_the_saved_ones_statistics_come_with_it(kind: Normalize, tmp_path: Path) -> None:
    directory = saved(VANILLA, tmp_path, normalize="per_dim")
    run = begun(trainer(VANILLA, seed=1, normalize=kind, start_from=str(directory)))
    behind = load(directory).trained_behind
    assert behind is not None
    assert torch.equal(run.normalizer.scale_D, behind.scale_D)
    x_BD, _ = VANILLA.source().rows(100)
    torch.testing.assert_close(reconstruction(run, x_BD), load(directory)(x_BD), rtol=1e-4, atol=1e-4)


def test_fine_tuned_sae_is_saved_and_loads(tmp_path: Path) -> None:
    directory = saved(VANILLA, tmp_path / "first", normalize="per_dim", steps=30)
    run = trainer(VANILLA, start_from=str(directory), steps=30)
    first, last = load(directory), run.train()
    save(run.architecture, tmp_path, hook_points=["a"], lineage={}, normalizer=run.normalizer)
    x_BD, _ = VANILLA.source().rows(500)
    second = load(tmp_path)
    torch.testing.assert_close(second(x_BD), reconstruction(run, x_BD), rtol=1e-4, atol=1e-4)
    assert float((second(x_BD) - x_BD).square().sum()) != float((first(x_BD) - x_BD).square().sum())
    assert last["loss"] > 0


def test_fine_tuning_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    directory = str(saved(VANILLA, tmp_path / "first"))
    config = {"start_from": directory, "steps": 8, "checkpoint_every": 3}
    whole = trainer(VANILLA, checkpoint=tmp_path / "whole", **config)
    whole.train()
    cut = trainer(VANILLA, checkpoint=tmp_path / "cut", **config)
    calls = iter(range(100))

    def stop() -> bool:
        if next(calls) == 5:
            raise Begun
        return False

    cut.stop = stop
    with pytest.raises(Begun):
        cut.train()
    resumed = trainer(VANILLA, checkpoint=tmp_path / "cut", **config)
    resumed.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.trainable.parameters(), resumed.trainable.parameters(), strict=True))


def test_average_begins_at_the_weights_of_the_saved_one(tmp_path: Path) -> None:
    run = begun(trainer(VANILLA, seed=1, average=0.999, start_from=str(saved(VANILLA, tmp_path))))
    assert run.state.average is not None
    live = dict(run.trainable.named_parameters())
    assert all(torch.equal(weight, live[name]) for name, weight in run.state.average.weights.items())


@pytest.mark.parametrize(
    ("config", "case", "expected"),
    [
        (
            {"normalize": "layer_norm"},
            "vanilla",
            r"another kind of normalisation.*expected train\.normalize: none, sqrt_d or per",
        ),
        ({}, "crosscoder", r"other widths.*found inputs \[12\].*expected inputs \[7, 5\]"),
        ({}, "gated", r"does not fit this architecture.*encoder"),
        ({}, "transcoder", r"other widths"),
    ],
)
def test_sae_that_does_not_fit_is_refused(config: dict[str, Any], case: str, expected: str, tmp_path: Path) -> None:
    directory = saved(VANILLA, tmp_path)
    with pytest.raises(InputError, match=r"train\.start_from: .*" + expected):
        trainer(next(c for c in CASES if c.name == case), start_from=str(directory), **config).train()


def test_sae_of_another_width_is_refused(tmp_path: Path) -> None:
    run = trainer(VANILLA, start_from=str(saved(VANILLA, tmp_path)))
    run.architecture = VANILLA.build(d_sae=30)
    with pytest.raises(InputError, match=r"train\.start_from: .*does not fit.*decoder\.weight"):
        run.train()


def test_layer_norm_is_asked_for_by_name(tmp_path: Path) -> None:
    directory = saved(VANILLA, tmp_path, normalize="layer_norm")
    with pytest.raises(InputError, match=r"expected train\.normalize: layer_norm"):
        trainer(VANILLA, start_from=str(directory)).train()


def test_directory_that_holds_neither_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train\.start_from: .*neither a run's state nor a saved SAE.*state\.json or config\.json"
    ):
        trainer(VANILLA, start_from=str(tmp_path / "nowhere")).train()


# Extending a run.


def run(cls: Any, checkpoint: Path | None, **config: Any) -> Trainer:
    parsed = parse_config(TrainConfig, BASE | {"log_every": 5} | config)
    made = Trainer(cls(d_in=16, d_sae=32, l0_target=3), SyntheticSource(), parsed, checkpoint=checkpoint)
    made.train()
    return made


@pytest.mark.parametrize(
    "more", [{}, {"average": 0.9}, {"optimizer": {"name": "schedule_free"}}, {"normalize": "per_dim"}], ids=str
)
def test_extended_run_ends_as_one_that_was_as_long_from_the_start(more: dict[str, Any], tmp_path: Path) -> None:
    """With a flat learning rate and nothing steered; else the plan itself depends on the length."""
    plan = more | {"l0_targeting": {"controller": "none"}}
    whole = run(TopKSAE, None, steps=20, **plan)
    run(TopKSAE, tmp_path / "state", steps=10, **plan)
    extended = run(TopKSAE, tmp_path / "other", steps=20, start_from=str(tmp_path / "state"), **plan)
    assert all(torch.equal(a, b) for a, b in zip(whole.trainable.parameters(), extended.trainable.parameters(), strict=True))
    assert extended.state.history == whole.state.history
    assert isinstance(extended.source, SyntheticSource)
    assert 10 in extended.source.served


def test_run_that_was_stopped_early_gets_its_patience_back(tmp_path: Path) -> None:
    stopping = {"early_stopping": {"patience": 2, "figure": "lr"}, "log_every": 2}
    first = run(TopKSAE, tmp_path / "state", steps=100, **stopping)
    assert first.state.step == 6
    second = run(TopKSAE, None, steps=100, start_from=str(tmp_path / "state"), **stopping)
    assert second.state.step == 10


def test_run_that_is_as_long_already_is_refused(tmp_path: Path) -> None:
    run(TopKSAE, tmp_path / "state", steps=10)
    with pytest.raises(InputError, match=r"train\.steps: .*as long.*found 10, expected more than the 10 steps"):
        run(TopKSAE, None, steps=10, start_from=str(tmp_path / "state"))


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    run(TopKSAE, tmp_path / "state", steps=10)
    parsed = parse_config(TrainConfig, BASE | {"steps": 20, "start_from": str(tmp_path / "state")})
    other = Trainer(VanillaSAE(d_in=16, d_sae=31), SyntheticSource(), parsed)
    with pytest.raises(Failure, match="another model"):
        other.train()


def test_state_of_a_run_behind_another_normaliser_is_refused(tmp_path: Path) -> None:
    run(TopKSAE, tmp_path / "state", steps=10, normalize="layer_norm")
    with pytest.raises(InputError, match=r"train\.normalize: .*normalised otherwise.*found affine, expected layer_norm"):
        run(TopKSAE, None, steps=20, normalize="sqrt_d", start_from=str(tmp_path / "state"))
