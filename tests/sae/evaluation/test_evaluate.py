"""The whole evaluation of a saved SAE on a tiny Llama, against its figures computed apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.activations.capture import ActivationsConfig, capture
from sae.activations.store import Store
from sae.architecture import TrainedSAE, load, save
from sae.architectures.vanilla import VanillaSAE
from sae.corpus.tokens import TokenSet
from sae.evaluation.evaluate import EvaluateConfig, Evaluation
from tests.sae.language_model import BOS, EOS, UNK, random_tokens, tiny_llama

MODEL = tiny_llama(layers=2)
POINT = "model.layers.0"
S, C, D, F = 40, 10, 16, 24


def token_set(seed: int) -> TokenSet:
    tokens_SC = random_tokens(S, C, seed)
    document_SC = torch.arange(S)[:, None].expand(S, C).masked_fill(tokens_SC >= BOS, -1).int()
    position_SC = torch.arange(C).expand(S, C).int().contiguous()
    return TokenSet(tokens_SC, document_SC, position_SC, [f"doc{i}" for i in range(S)], [BOS, EOS, UNK], complete=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stores, and an SAE with some latents that never fire."""
    root = tmp_path_factory.mktemp("evaluation")
    config = ActivationsConfig(hook_points=[POINT], dtype="float32")
    for seed, split in enumerate(("train", "held_out")):
        capture(MODEL, token_set(seed), config, root / split, split=split, inputs={})
    mean_D = Store(root / "train").mean(POINT)
    architecture = VanillaSAE(d_in=D, d_sae=F, center_D=mean_D)
    with torch.no_grad():
        architecture.core_model.encoder["encoder_pre"]["lin"].bias[:5] = -1000
    (root / "sae").mkdir()
    save(architecture, root / "sae", hook_points=[POINT], lineage={})
    return root


def evaluation(folder: Path, **config: Any) -> Evaluation:
    options = {"splice_tokens": S * C, "batch_size": 7, "pca_rows": 300, "latents": 4, "examples": 2} | config
    return Evaluation(
        load(folder / "sae"),
        MODEL,
        lambda ids: f"w{ids[0]}",
        token_set(1),
        Store(folder / "held_out"),
        Store(folder / "train"),
        EvaluateConfig(**options),
    )


def real_rows() -> torch.Tensor:
    """Held-out activations as transformers gives them, special tokens left out."""
    tokens = token_set(1)
    with torch.no_grad():
        states = MODEL(input_ids=tokens.tokens_SC, output_hidden_states=True).hidden_states[1]
    return states[~tokens.special_SC]  # type: ignore[no-any-return]


def expected(sae: TrainedSAE) -> dict[str, float]:
    x_ND = real_rows()
    z, y, x = sae.encode(x_ND).dense().numpy(), sae(x_ND).double().numpy(), x_ND.double().numpy()
    return {
        "tokens": len(x),
        "l0": (z != 0).sum(1).mean(),
        "fvu": ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
        "cosine": ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean(),
        "dead_latents": (z != 0).sum(0).tolist().count(0),
    }


def test_figures_are_of_held_out_tokens_that_are_no_special_ones(folder: Path) -> None:
    work = evaluation(folder)
    metrics, histograms, _ = work.run()
    for name, value in expected(work.sae).items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
    assert metrics["tokens"] == S * (C - 1)
    assert metrics["dead_latents"] >= 5
    assert metrics["dead_share"] == metrics["dead_latents"] / F
    assert sum(histograms["l0"]["counts"]) == metrics["tokens"]
    assert sum(histograms["frequency"]["counts"]) == F - metrics["dead_latents"]


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
def test_figures_do_not_depend_on_the_batch_size(folder: Path, batch_size: int) -> None:
    one, other = evaluation(folder).run()[0], evaluation(folder, batch_size=batch_size).run()[0]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-4)
    assert one["fvu"] == pytest.approx(other["fvu"], rel=1e-6)
    assert (one["l0"], one["dead_latents"]) == (other["l0"], other["dead_latents"])


def test_pca_has_as_many_components_as_latents_are_active_and_is_fitted_on_training_rows(folder: Path) -> None:
    metrics = evaluation(folder).run()[0]
    components = min(D, math.ceil(metrics["l0"]))
    assert metrics["pca"]["components"] == components
    fitted = Store(folder / "train").read_shard(0, [POINT])[POINT][:300].double().numpy()
    _, _, vectors = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)
    x = real_rows().double().numpy()
    left = x - fitted.mean(0) - (x - fitted.mean(0)) @ vectors[:components].T @ vectors[:components]
    assert metrics["pca"]["fvu"] == pytest.approx((left**2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-4)


def test_loss_is_measured_on_as_many_tokens_as_asked_for(folder: Path) -> None:
    metrics = evaluation(folder, splice_tokens=3 * C - 1).run()[0]
    assert metrics["loss"]["tokens"] == 3 * (C - 1)
    assert metrics["loss"]["original"] > 0


def test_examples_are_the_strongest_held_out_activations(folder: Path) -> None:
    work = evaluation(folder, latents=3, examples=4)
    _, _, latents = work.run()
    tokens = token_set(1)
    x_SCD = Store(folder / "held_out").read_shard(0, [POINT])[POINT].view(S, C, D)
    for shown in latents:
        strength_SC = work.sae.encode(x_SCD).dense().view(S, C, F)[:, :, shown["latent"]].masked_fill(tokens.special_SC, 0)
        best = strength_SC.max(1).values.sort(descending=True).values[:4].tolist()
        assert [row["activations"][row["peak"]] for row in shown["examples"]] == pytest.approx(best, abs=1e-3)
        for row in shown["examples"]:
            sequence = int(row["document"].removeprefix("doc"))
            assert row["tokens"][row["peak"]] == f"w{int(tokens.tokens_SC[sequence, row['position']])}"
    assert len(latents) == 3


def test_no_latents_may_be_shown(folder: Path) -> None:
    assert evaluation(folder, latents=0).run()[2] == []


def test_progress_adds_up_to_the_work(folder: Path) -> None:
    counted: list[int] = []
    work = evaluation(folder, splice_tokens=5 * C)
    work.progress = counted.append
    work.run()
    assert sum(counted) == work.work == S + 5
