"""Hook points: what passes at a module's output or input is read as it is, or replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae.activations.model import HookPoint, forward, load_model, read_activations
from sae.config import InputError
from sae.corpus.subject import SubjectConfig
from tests.sae.language_model import random_tokens, tiny_llama

MODEL = tiny_llama(layers=3)
TOKENS = random_tokens(4, 10)


def hidden_states() -> Any:
    """Transformers' own record: what enters each layer, and the normalised output of the last."""
    with torch.no_grad():
        return MODEL(input_ids=TOKENS, output_hidden_states=True).hidden_states


def read(*names: str) -> dict[str, torch.Tensor]:
    return read_activations(MODEL, [HookPoint(MODEL, name) for name in names], TOKENS)


def test_output_of_a_layer_is_what_enters_the_next() -> None:
    expected = hidden_states()
    found = read("model.layers.0", "model.layers.1", "model.norm", "model.embed_tokens")
    assert torch.equal(found["model.embed_tokens"], expected[0])
    assert torch.equal(found["model.layers.0"], expected[1])
    assert torch.equal(found["model.layers.1"], expected[2])
    assert torch.equal(found["model.norm"], expected[3])


def test_input_of_a_module_is_what_enters_it() -> None:
    expected = hidden_states()
    found = read("model.layers.1.input", "model.layers.2.input", "model.layers.0.output")
    assert torch.equal(found["model.layers.1.input"], expected[1])
    assert torch.equal(found["model.layers.2.input"], expected[2])
    assert torch.equal(found["model.layers.0.output"], expected[1])


def test_inner_modules_are_hook_points_too() -> None:
    layer = MODEL.model.layers[1]
    found = read(
        "model.layers.1.mlp", "model.layers.1.mlp.input", "model.layers.1.self_attn", "model.layers.1.mlp.down_proj.input"
    )
    assert torch.equal(found["model.layers.1.mlp"], layer.mlp(found["model.layers.1.mlp.input"]))
    assert found["model.layers.1.mlp.down_proj.input"].shape == (4, 10, 32)
    after_attention = hidden_states()[1] + found["model.layers.1.self_attn"]
    torch.testing.assert_close(layer.post_attention_layernorm(after_attention), found["model.layers.1.mlp.input"])


def test_forward_pass_ends_at_the_last_hook_point_that_is_needed() -> None:
    reached: list[str] = []
    handles = [m.register_forward_pre_hook(lambda *_, n=n: reached.append(n)) for n, m in MODEL.named_modules() if n]
    try:
        read("model.layers.1", "model.layers.0")
    finally:
        for handle in handles:
            handle.remove()
    assert "model.layers.1.mlp" in reached
    assert not {"model.layers.2", "model.norm", "lm_head"} & set(reached)


def test_hooks_are_gone_afterwards() -> None:
    model = tiny_llama()
    read_activations(model, [HookPoint(model, name) for name in ("model.layers.1", "model.layers.0.input")], TOKENS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["model.layers.7", "model.layer.1", "", "lm_haed", "model.layers.1.inptu"])
def test_unknown_hook_point_lists_those_there_are(name: str) -> None:
    with pytest.raises(InputError, match=r"activations\.hook_points: .*model\.layers\.0, model\.layers\.1, model\.layers\.2"):
        HookPoint(MODEL, name)


def test_unknown_hook_point_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean 'model\.layers\.1'"):
        HookPoint(MODEL, "model.layrs.1")


@pytest.mark.parametrize("name", ["model", "model.rotary_emb", "lm_head.input.input"])
def test_module_that_hands_on_no_activations_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"activations\.hook_points: "):
        read(name)


def test_module_that_is_never_reached_is_refused() -> None:
    model = tiny_llama(layers=1)
    model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"never reaches.*spare"):
        read_activations(model, [HookPoint(model, "spare")], TOKENS)


@pytest.mark.parametrize(
    ("name", "same_place"), [("model.layers.0", "model.layers.1.input"), ("model.layers.2.input", "model.layers.1")]
)
def test_replacement_at_an_output_is_one_at_the_next_input(name: str, same_place: str) -> None:
    replacement = torch.randn(4, 10, 16, generator=torch.Generator().manual_seed(1))
    logits = []
    for point in (name, same_place):
        with torch.no_grad(), HookPoint(MODEL, point).hooked(lambda x: replacement):
            logits.append(forward(MODEL, TOKENS).logits)
    assert torch.equal(*logits)
    with torch.no_grad():
        assert not torch.equal(logits[0], forward(MODEL, TOKENS).logits)


def test_looking_replaces_nothing() -> None:
    with torch.no_grad(), HookPoint(MODEL, "model.layers.1").hooked(lambda x: None):
        looked = forward(MODEL, TOKENS).logits
    with torch.no_grad():
        assert torch.equal(looked, MODEL(input_ids=TOKENS).logits)


def test_model_comes_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    model = load_model(SubjectConfig(model=str(tmp_path), dtype="bfloat16"), None, torch.device("cpu"))
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
