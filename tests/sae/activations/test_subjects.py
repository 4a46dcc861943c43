"""Subjects of several kinds: which class loads them, and what passes their hook points where sequences are padded."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel, LlamaForCausalLM

from sae.activations.model import HookPoint, forward, input_device, load_model, read_activations
from sae.config import InputError, parse_config
from sae.corpus.subject import SubjectConfig, load_model_config, model_kind
from tests.sae.language_model import random_tokens, tiny_bert, tiny_llama

S, C = 4, 10
LENGTHS = [10, 7, 3, 1]
TOKENS = random_tokens(S, C)
ATTENTION_SC = torch.arange(C) < torch.tensor(LENGTHS)[:, None]
CPU = torch.device("cpu")

CASES = {
    "llama": (tiny_llama(), "model.layers"),
    "masked": (tiny_bert(), "bert.encoder.layer"),
    "encoder": (tiny_bert(head=False), "encoder.layer"),
}


def saved(model: Any, folder: Path, **changes: Any) -> SubjectConfig:
    model.save_pretrained(folder)
    return parse_config(SubjectConfig, {"model": str(folder)} | changes, "subject")


@pytest.mark.parametrize("case", CASES)
def test_layers_hand_on_the_hidden_states_of_transformers(case: str) -> None:
    model, layers = CASES[case]
    points = [HookPoint(model, f"{layers}.{i}") for i in range(2)]
    found = read_activations(model, points, TOKENS, ATTENTION_SC)
    with torch.no_grad():
        states = model(input_ids=TOKENS, attention_mask=ATTENTION_SC.long(), output_hidden_states=True).hidden_states
    for i, point in enumerate(points):
        assert torch.equal(found[point.name], states[i + 1])


@pytest.mark.parametrize("case", CASES)
def test_activations_of_real_tokens_are_those_of_the_sequence_without_padding(case: str) -> None:
    model, layers = CASES[case]
    point = HookPoint(model, f"{layers}.1")
    padded_SCD = read_activations(model, [point], TOKENS, ATTENTION_SC)[point.name]
    for row, length in enumerate(LENGTHS):
        alone_CD = read_activations(model, [point], TOKENS[row : row + 1, :length])[point.name][0]
        torch.testing.assert_close(padded_SCD[row, :length], alone_CD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["masked", "encoder"])
def test_without_a_mask_an_encoder_sees_the_padding(case: str) -> None:
    model, layers = CASES[case]
    point = HookPoint(model, f"{layers}.1")
    padded_SCD = read_activations(model, [point], TOKENS, ATTENTION_SC)[point.name]
    unmasked_SCD = read_activations(model, [point], TOKENS)[point.name]
    assert not torch.allclose(padded_SCD[1, :7], unmasked_SCD[1, :7], atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_forward_pass_hands_over_no_more_than_the_model_takes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = CASES[case]
    given: list[dict[str, Any]] = []
    handle = model.register_forward_pre_hook(lambda m, args, kwargs: given.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        forward(model, TOKENS)
        forward(model, TOKENS, ATTENTION_SC)
    handle.remove()
    assert "attention_mask" not in given[0]
    assert torch.equal(given[1]["attention_mask"].bool(), ATTENTION_SC)
    takes_it = "use_cache" in inspect.signature(type(model).forward).parameters
    assert [kwargs.get("use_cache") for kwargs in given] == [False if takes_it else None] * 2


# Which class


@pytest.mark.parametrize(
    ("kind", "cls"), [("auto", BertForMaskedLM), ("masked", BertForMaskedLM), ("encoder", BertModel), ("causal", None)]
)
def test_kind_says_which_class_loads_the_weights(kind: str, cls: type | None, tmp_path: Path) -> None:
    config = saved(tiny_bert(), tmp_path, kind=kind)
    model = load_model(config, None, CPU)
    assert type(model) is cls if cls is not None else type(model).__name__ == "BertLMHeadModel"
    weights = model.state_dict()
    name = next(n for n in weights if n.endswith("encoder.layer.1.output.dense.weight"))
    assert torch.equal(weights[name], tiny_bert().bert.encoder.layer[1].output.dense.weight)


def test_auto_goes_by_what_the_weights_were_saved_as(tmp_path: Path) -> None:
    bert = tiny_bert().config
    expected = {
        tiny_llama(): "causal",
        tiny_bert(): "masked",
        tiny_bert(head=False): "encoder",
        BertForPreTraining(bert): "masked",  # its head for masked tokens is among the weights
        BertForSequenceClassification(bert): "encoder",  # there is no such head
    }
    for i, (model, kind) in enumerate(expected.items()):
        config = saved(model, tmp_path / str(i))
        assert model_kind(config, load_model_config(config)) == kind


def test_auto_goes_by_the_class_of_the_config_where_it_names_no_architecture() -> None:
    for model, kind in ((tiny_llama(), "causal"), (tiny_bert(), "masked")):
        model.config.architectures = None
        assert model_kind(SubjectConfig(), model.config) == kind
    decoder = tiny_bert().config
    decoder.architectures, decoder.is_decoder = None, True
    assert model_kind(SubjectConfig(), decoder) == "causal"


def test_auto_knows_models_that_bring_their_own_code() -> None:
    config = tiny_llama().config
    config.architectures, config.auto_map = ["MineForMasks"], {"AutoModelForMaskedLM": "modeling_mine.MineForMasks"}
    assert model_kind(SubjectConfig(), config) == "masked"


# Which device


def test_a_device_map_spreads_the_model_and_it_is_not_moved_afterwards(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    config = saved(tiny_llama(), tmp_path, device_map={"": "cpu"})
    model = load_model(config, None, torch.device("meta"))  # moved there, it would have no weights
    assert isinstance(model, LlamaForCausalLM)
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(forward(model, TOKENS).logits, forward(tiny_llama(), TOKENS).logits)


def test_a_device_map_needs_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = saved(tiny_llama(), tmp_path, device_map="auto")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "accelerate" else find(name, *more))
    with pytest.raises(InputError, match=r"subject\.device_map: .*accelerate \(expected pip install accelerate\)"):
        load_model(config, None, CPU)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    for wrong in ("nowhere", {"": "cuda:99"}):
        with pytest.raises(InputError, match=r"subject\.(device_map|model): "):
            load_model(saved(tiny_llama(), tmp_path, device_map=wrong), None, CPU)


def test_tokens_go_where_the_input_embedding_is() -> None:
    model = tiny_llama()
    assert input_device(model) == CPU
    model.model.layers.to("meta")
    assert input_device(model) == CPU
    model.lm_head.to("meta")
    model.model.embed_tokens.to("meta")
    assert input_device(model) == CPU  # fetched when needed
