"""The whole evaluation of transcoders, crosscoders and steps that need their input; of padded sets; of a Bert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.activations.capture import ActivationsConfig, capture
from sae.activations.store import Store
from sae.architecture import Architecture, TrainedSAE, load, save
from sae.architecture.normalizer import Normalizer
from sae.architectures.config import SAEConfig
from sae.config import InputError, parse_config
from sae.corpus.tokens import TokenSet
from sae.evaluation.evaluate import EvaluateConfig, Evaluation
from sae.evaluation.tasks import MaskedTokens
from tests.sae.language_model import BOS, EOS, MASK, UNK, random_tokens, tiny_bert, tiny_llama

LLAMA, BERT = tiny_llama(layers=2), tiny_bert(layers=2)
S, C, D, F = 24, 10, 16, 24
WIDE, MLP_IN, MLP_OUT, LAYER = (f"model.layers.0{end}" for end in (".mlp.down_proj.input", ".mlp.input", ".mlp", ""))
WIDTHS = {WIDE: 2 * D, MLP_IN: D, MLP_OUT: D, LAYER: D}


def token_set(seed: int, lengths_S: Tensor | None = None) -> TokenSet:
    tokens_SC = random_tokens(S, C, seed)
    document_SC = torch.arange(S)[:, None].expand(S, C).masked_fill(tokens_SC >= BOS, -1).int()
    if lengths_S is not None:
        padding_SC = torch.arange(C) >= lengths_S[:, None]
        tokens_SC, document_SC = tokens_SC.masked_fill(padding_SC, EOS), document_SC.masked_fill(padding_SC, -1)
    position_SC = torch.arange(C).expand(S, C).int().contiguous()
    names = [f"doc{i}" for i in range(S)]
    return TokenSet(tokens_SC, document_SC, position_SC, names, [BOS, EOS, UNK], complete=True, lengths_S=lengths_S)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    for seed, split in enumerate(("train", "held_out")):
        config = ActivationsConfig(hook_points=list(WIDTHS), dtype="float32")
        capture(LLAMA, token_set(seed), config, root / split, split=split, inputs={})
    return root


def trained(folder: Path, architecture: str, sources: list[str], targets: list[str], **step: Any) -> TrainedSAE:
    """An SAE of random weights between these hook points, from its directory."""
    section = parse_config(SAEConfig, {"architecture": architecture}, "sae")
    widths, target_widths = ([WIDTHS.get(name, D) for name in names] for names in (sources, targets))
    more = {} if sources == targets else {"d_out": sum(target_widths), "target_widths": target_widths}
    sae: Architecture[Any] = section.architecture_class()(
        section.architecture_config(), d_in=sum(widths), d_sae=F, l0_target=4, widths=widths, **more
    )
    save(sae, folder, hook_points=sources, target_hook_points=targets, lineage={}, **step)
    return load(folder)


def evaluation(sae: TrainedSAE, stores: Path, tokens: TokenSet | None = None, model: Any = LLAMA, **more: Any) -> Evaluation:
    config = EvaluateConfig(splice_tokens=S * C, batch_size=7, pca_rows=150, latents=3, examples=2)
    tokens = token_set(1) if tokens is None else tokens
    held_out, train = Store(stores / "held_out"), Store(stores / "train")
    return Evaluation(sae, model, lambda ids: f"w{ids[0]}", tokens, held_out, train, config, **more)


def rows(stores: Path, split: str, names: list[str]) -> Tensor:
    shard = Store(stores / split).read_shard(0, names)
    return torch.cat([shard[name] for name in names], -1)


CASES = [
    ("transcoder", [MLP_IN], [MLP_OUT]),
    ("skip_transcoder", [WIDE], [MLP_OUT]),
    ("transcoder", [LAYER], [MLP_IN]),  # the target comes first
    ("crosscoder", [MLP_OUT, LAYER], [MLP_OUT, LAYER]),
    ("crosscoder", [LAYER, WIDE], [LAYER, WIDE]),
    ("vanilla", [LAYER], [LAYER]),
]


@pytest.mark.parametrize(("architecture", "sources", "targets"), CASES)
def test_figures_are_of_the_targets_rows(
    architecture: str, sources: list[str], targets: list[str], stores: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path, architecture, sources, targets)
    metrics, _, latents = evaluation(sae, stores).run()
    real_N = ~token_set(1).special_SC.flatten()
    x_ND, y_NE = (rows(stores, "held_out", names)[real_N] for names in (sources, targets))
    y, made = y_NE.double().numpy(), sae(x_ND).double().numpy()
    variance = ((y - y.mean(0)) ** 2).sum()
    assert metrics["fvu"] == pytest.approx(((y - made) ** 2).sum() / variance, rel=1e-4)
    cosine = (y * made).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(made, axis=1)
    assert metrics["cosine"] == pytest.approx(cosine.mean(), rel=1e-4)
    assert metrics["l0"] == pytest.approx(float((sae.encode(x_ND).dense() != 0).sum(1).float().mean()))
    fitted = rows(stores, "train", targets)[:150].double().numpy()
    _, _, vectors = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)
    basis = vectors[: metrics["pca"]["components"]]
    centred = y - fitted.mean(0)
    assert metrics["pca"]["fvu"] == pytest.approx(((centred - centred @ basis.T @ basis) ** 2).sum() / variance, rel=1e-4)
    assert metrics["loss"]["tokens"] == S * (C - 1)
    assert len({metrics["loss"][name] for name in ("original", "spliced", "zero_ablation", "mean_ablation")}) == 4
    assert latents


def test_an_sae_behind_a_layer_norm_is_evaluated(stores: Path, tmp_path: Path) -> None:
    sae = trained(tmp_path, "vanilla", [LAYER], [LAYER], normalizer=Normalizer("layer_norm", [D], [D]))
    assert sae.normalizer is not None
    x_ND = rows(stores, "held_out", [LAYER])[~token_set(1).special_SC.flatten()]
    expected = (x_ND - sae(x_ND)).square().sum() / (x_ND - x_ND.mean(0)).square().sum()
    assert evaluation(sae, stores).run()[0]["fvu"] == pytest.approx(float(expected), rel=1e-4)


def test_a_hook_point_that_the_store_lacks_is_named(stores: Path, tmp_path: Path) -> None:
    sae = trained(tmp_path, "transcoder", [MLP_IN], ["model.layers.1.mlp"])
    with pytest.raises(InputError, match=r"the store has no such hook point \(found model\.layers\.1\.mlp"):
        evaluation(sae, stores)


# Padding


def test_padding_is_in_no_figure_and_in_no_example(tmp_path: Path) -> None:
    lengths_S = torch.randint(3, C + 1, (S,), generator=torch.Generator().manual_seed(0)).int()
    padded = token_set(1, lengths_S)
    for split, tokens in (("train", token_set(0)), ("held_out", padded)):
        capture(LLAMA, tokens, ActivationsConfig(hook_points=[LAYER], dtype="float32"), tmp_path / split, split=split, inputs={})
    (tmp_path / "sae").mkdir()
    sae = trained(tmp_path / "sae", "vanilla", [LAYER], [LAYER])
    work = evaluation(sae, tmp_path, padded)
    metrics, _, latents = work.run()
    assert metrics["tokens"] == metrics["loss"]["tokens"] == int(lengths_S.sum()) - S
    for example in (example for latent in latents for example in latent["examples"]):
        sequence = int(example["document"].removeprefix("doc"))
        start = example["position"] - example["peak"]
        assert start + len(example["tokens"]) <= int(lengths_S[sequence])


@pytest.mark.parametrize("wanted", [1, 10, 11, 57])
def test_as_many_sequences_are_spliced_as_hold_the_tokens_asked_for(wanted: int, stores: Path, tmp_path: Path) -> None:
    sae = trained(tmp_path, "vanilla", [LAYER], [LAYER])
    lengths_S = (3 + torch.arange(S) % 7).int()
    for tokens, lengths in ((token_set(1), [C] * S), (token_set(1, lengths_S), lengths_S.tolist())):
        work = evaluation(sae, stores, tokens)
        work.config = EvaluateConfig(splice_tokens=wanted)
        enough = work.spliced_sequences
        assert sum(lengths[:enough]) >= wanted > sum(lengths[: enough - 1])


# Models that are not causal


def bert_stores(folder: Path, model: Any, name: str) -> TrainedSAE:
    for seed, split in enumerate(("train", "held_out")):
        config = ActivationsConfig(hook_points=[name], dtype="float32")
        capture(model, token_set(seed), config, folder / split, split=split, inputs={})
    (folder / "sae").mkdir()
    return trained(folder / "sae", "vanilla", [name], [name])


def test_a_masked_models_loss_is_of_masked_tokens(tmp_path: Path) -> None:
    sae = bert_stores(tmp_path, BERT, "bert.encoder.layer.0")
    loss = evaluation(sae, tmp_path, model=BERT, task=MaskedTokens(MASK)).run()[0]["loss"]
    assert loss["tokens"] == S * round(0.15 * (C - 1))
    assert len({loss[name] for name in ("original", "spliced", "zero_ablation", "mean_ablation")}) == 4


def test_an_encoder_has_no_loss_and_all_other_figures(tmp_path: Path) -> None:
    model = tiny_bert(layers=2, head=False)
    sae = bert_stores(tmp_path, model, "encoder.layer.0")
    counted: list[int] = []
    work = evaluation(sae, tmp_path, model=model, task=None, progress=counted.append)
    metrics, _, latents = work.run()
    assert metrics["loss"] is None
    assert 0 < metrics["fvu"] < 100
    assert latents
    assert sum(counted) == work.work == S
