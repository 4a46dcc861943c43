"""Splicing at several hook points, between different ones, under padding, and in a masked model.

The passes to compare with are of models whose modules are exchanged for ones that give out what they are told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae.activations.model import HookPoint
from sae.config import Failure, InputError
from sae.evaluation.splice import SplicedLoss
from sae.evaluation.tasks import MaskedTokens, next_token
from tests.sae.language_model import BOS, EOS, MASK, random_tokens, tiny_bert, tiny_llama

MODEL, BERT = tiny_llama(layers=3), tiny_bert(layers=3)
S, C, D = 6, 8, 16
TOKENS = random_tokens(S, C)
TOKENS[1, 3] = TOKENS[4, 7] = EOS
SPECIAL = TOKENS >= BOS
VARIANTS = ("original", "spliced", "zero_ablation", "mean_ablation")


class Told(nn.Module):
    """A module that computes as it did, and gives out something else except on special tokens."""

    def __init__(self, module: nn.Module, instead_SCW: Tensor, special_SC: Tensor) -> None:
        super().__init__()
        self.module, self.instead_SCW, self.special_SC = module, instead_SCW, special_SC

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.module(*args, **kwargs)
        x = output[0] if isinstance(output, tuple) else output
        new = torch.where(self.special_SC[..., None], x, self.instead_SCW)
        return (new, *output[1:]) if isinstance(output, tuple) else new


def told(model: Any, instead: dict[str, Tensor], special_SC: Tensor) -> Any:
    """A copy of a model in which these modules give out these tensors."""
    changed = copy.deepcopy(model)
    for path, new in instead.items():
        parent, _, name = path.rpartition(".")
        module = Told(changed.get_submodule(path), new, special_SC)
        if name.isdigit():
            changed.get_submodule(parent)[int(name)] = module
        else:
            setattr(changed.get_submodule(parent), name, module)
    return changed


def cross_entropy(model: Any, tokens_SC: Tensor = TOKENS, special_SC: Tensor = SPECIAL) -> float:
    with torch.no_grad():
        logits_SCV = model(input_ids=tokens_SC).logits
    targets = tokens_SC[:, 1:].long().masked_fill(special_SC[:, 1:], -100)
    return float(F.cross_entropy(logits_SCV[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100))


def hidden(index: int) -> Tensor:
    with torch.no_grad():
        states: Tensor = MODEL(input_ids=TOKENS, output_hidden_states=True).hidden_states[index]
    return states


def spliced(
    sources: list[str], targets: list[str], reconstruct: Callable[[Tensor], Tensor], means: list[Tensor]
) -> dict[str, float]:
    points = ([HookPoint(MODEL, name) for name in names] for names in (sources, targets))
    loss = SplicedLoss(MODEL, *points, reconstruct, means)
    loss.update(TOKENS, SPECIAL)
    return loss.result()


MEANS = [torch.linspace(-1, 1, D), torch.linspace(2, -1, D)]


def test_a_transcoder_reads_before_an_mlp_and_writes_behind_it() -> None:
    weight = torch.randn(D, D, generator=torch.Generator().manual_seed(3)) / 4
    result = spliced(["model.layers.1.mlp.input"], ["model.layers.1.mlp"], lambda x: x @ weight, MEANS[:1])
    layer = MODEL.model.layers[1]
    with torch.no_grad():
        entering = hidden(1)
        # The input of the MLP, from the layer's own parts.
        rotary = MODEL.model.rotary_emb(entering, torch.arange(C)[None])
        mask = torch.full((C, C), float("-inf")).triu(1)[None, None]
        attended = layer.self_attn(layer.input_layernorm(entering), position_embeddings=rotary, attention_mask=mask)[0]
        mlp_input = layer.post_attention_layernorm(entering + attended)
    expected = {
        "original": MODEL,
        "spliced": told(MODEL, {"model.layers.1.mlp": mlp_input @ weight}, SPECIAL),
        "zero_ablation": told(MODEL, {"model.layers.1.mlp": torch.zeros(S, C, D)}, SPECIAL),
        "mean_ablation": told(MODEL, {"model.layers.1.mlp": MEANS[0].expand(S, C, D)}, SPECIAL),
    }
    for name, model in expected.items():
        assert result[name] == pytest.approx(cross_entropy(model), rel=1e-5), name
    assert len({round(result[name], 5) for name in VARIANTS}) == 4


@pytest.mark.parametrize("names", [["model.layers.0", "model.layers.1"], ["model.layers.1", "model.layers.0"]])
def test_a_crosscoder_writes_all_hook_points_at_once_from_what_the_untouched_model_had_there(names: list[str]) -> None:
    def reconstruct(x_SCD: Tensor) -> Tensor:
        assert x_SCD.shape == (S, C, 2 * D)
        return 0.5 * x_SCD.flip(-1)  # mixes the hook points, so that order and origin show

    result = spliced(names, names, reconstruct, MEANS)
    states = [hidden(int(name[-1]) + 1) for name in names]
    parts = (0.5 * torch.cat(states, -1).flip(-1)).split(D, -1)
    assert result["original"] == pytest.approx(cross_entropy(MODEL), rel=1e-5)
    for variant, new in {
        "spliced": parts,
        "zero_ablation": [torch.zeros(S, C, D)] * 2,
        "mean_ablation": [mean.expand(S, C, D) for mean in MEANS],
    }.items():
        model = told(MODEL, dict(zip(names, new, strict=True)), SPECIAL)
        assert result[variant] == pytest.approx(cross_entropy(model), rel=1e-5), variant


def test_a_perfect_crosscoder_costs_exactly_nothing() -> None:
    names = ["model.layers.0", "model.layers.1.mlp", "model.layers.2"]
    result = spliced(names, names, lambda x: x, [*MEANS, MEANS[0]])
    assert result["spliced"] == result["original"]


def test_hook_points_of_different_widths_stand_side_by_side() -> None:
    names = ["model.layers.0.mlp.down_proj.input", "model.layers.1"]  # 32 and 16 wide
    result = spliced(names, names, lambda x: x, [torch.ones(32), MEANS[0]])
    assert result["spliced"] == result["original"]
    assert result["mean_ablation"] != result["zero_ablation"]


def test_a_target_may_come_before_its_input() -> None:
    result = spliced(["model.layers.1"], ["model.layers.0"], lambda x: 0.7 * x, MEANS[:1])
    model = told(MODEL, {"model.layers.0": 0.7 * hidden(2)}, SPECIAL)
    assert result["spliced"] == pytest.approx(cross_entropy(model), rel=1e-5)


def test_a_hook_point_that_is_never_reached_is_refused() -> None:
    model = tiny_llama()
    model.spare = nn.Linear(2, 2)
    points = [HookPoint(model, "spare")]
    with pytest.raises(InputError, match=r"hook_points: .*never reaches.*spare"):
        SplicedLoss(model, points, points, lambda x: x, MEANS[:1]).update(TOKENS, SPECIAL)


def test_sequences_with_nothing_to_predict_are_told() -> None:
    points = [HookPoint(MODEL, "model.layers.1")]
    loss = SplicedLoss(MODEL, points, points, lambda x: x, MEANS[:1])
    loss.update(TOKENS, torch.ones_like(SPECIAL))
    with pytest.raises(Failure, match="no token to predict"):
        loss.result()


# Padding


LENGTHS = [8, 3, 6, 8, 2, 5]
ATTENTION = torch.arange(C) < torch.tensor(LENGTHS)[:, None]
PADDED = TOKENS.masked_fill(~ATTENTION, EOS)


@pytest.mark.parametrize(
    ("model", "name", "task"),
    [(MODEL, "model.layers.1", next_token), (BERT, "bert.encoder.layer.1", MaskedTokens(MASK))],
    ids=["causal", "masked"],
)
def test_padding_changes_no_figure(model: Any, name: str, task: Any) -> None:
    points = [HookPoint(model, name)]
    padded, alone = (SplicedLoss(model, points, points, lambda x: 0.5 * x, MEANS[:1], task) for _ in range(2))
    special_SC = SPECIAL | ~ATTENTION
    padded.update(PADDED, special_SC, ATTENTION)
    for row, length in enumerate(LENGTHS):
        alone.update(TOKENS[row : row + 1, :length], special_SC[row : row + 1, :length])
    assert padded.tokens == alone.tokens > 0
    for variant in VARIANTS:
        assert padded.result()[variant] == pytest.approx(alone.result()[variant], rel=1e-5), variant


# Masked models


def test_cross_entropy_of_a_masked_model_is_that_of_its_masked_tokens() -> None:
    seen: list[Tensor] = []

    def reconstruct(x_SCD: Tensor) -> Tensor:
        seen.append(x_SCD)
        return 0.5 * x_SCD

    points, task = [HookPoint(BERT, "bert.encoder.layer.1")], MaskedTokens(MASK)
    loss = SplicedLoss(BERT, points, points, reconstruct, MEANS[:1], task)
    loss.update(TOKENS, SPECIAL)
    question = task(TOKENS, SPECIAL, 0)
    labels_SC = TOKENS.long().masked_fill(~question.asked_SC, -100)
    with torch.no_grad():
        output = BERT(input_ids=question.tokens_SC, labels=labels_SC, output_hidden_states=True)
        assert torch.equal(seen[0], output.hidden_states[2])  # of the sequence as the model saw it
        changed = told(BERT, {"bert.encoder.layer.1": 0.5 * seen[0]}, SPECIAL)
        expected = float(changed(input_ids=question.tokens_SC, labels=labels_SC).loss)
    assert loss.result()["original"] == pytest.approx(float(output.loss), rel=1e-5)
    assert loss.result()["spliced"] == pytest.approx(expected, rel=1e-5)
    assert loss.tokens == int(question.asked_SC.sum())
