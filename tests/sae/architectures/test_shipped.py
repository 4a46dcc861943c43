"""Every architecture that ships learns, keeps its dictionary in shape, and comes back from its directory as it was.

Shapes: B tokens in a batch, D dimensions, F latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.architecture import Architecture, load, save
from sae.architectures import SHIPPED
from sae.architectures.config import SAEConfig
from sae.components import training_hooks
from sae.config import InputError, parse_config
from sae.core import Cache
from tests.sae.synthetic import SyntheticSource

D, F, K = 16, 32, 3
UNIT_NORM = {
    "topk",
    "batchtopk",
    "matryoshka",
    "jumprelu",
    "gated",
    "vanilla",
    "p_anneal",
    "prolu",
    "transcoder",
    "skip_transcoder",
}
CHOICES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SHIPPED),
    ("jumprelu", {"penalty": "quadratic"}),
    ("prolu", {"gradient": "relu"}),
    ("transcoder", {"nonlinearity": "relu"}),
    ("crosscoder", {"nonlinearity": "batchtopk"}),
    *((name, {"pre_bias": False}) for name in ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "prolu", "vanilla")),
    ("anthropic", {"pre_bias": True}),
]
CHOICE = pytest.mark.parametrize(("name", "options"), CHOICES)


def build(name: str, options: dict[str, Any]) -> Architecture[Any]:
    section = parse_config(SAEConfig, {"architecture": name, name: options}, "sae")
    cls, extra = section.architecture_class(), {}
    if "transcoder" in name:
        extra = {"d_out": 5}
    if name == "crosscoder":
        extra = {"widths": [6, 10]}
    return cls(section.architecture_config(), d_in=D, d_sae=F, l0_target=K, seed=1, **extra)  # type: ignore[arg-type]


def pair(x_BD: Tensor, architecture: Architecture[Any]) -> Tensor:
    """The target that goes with an input: the input, or a fixed map of it."""
    if architecture.d_out == architecture.d_in:
        return x_BD
    return x_BD @ torch.randn(D, architecture.d_out, generator=torch.Generator().manual_seed(9)) / 4


def train(architecture: Architecture[Any], steps: int = 150) -> list[float]:
    """The errors of a short run: Adam, and the modules' own hooks."""
    trainable, source = architecture.trainable.train(), SyntheticSource(d_in=D, scale=4.0)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=3e-3)
    hooks, losses = list(training_hooks(trainable)), []
    for hook in hooks:
        hook.post_step(None)
    for step, (x_BD, _) in zip(range(steps), source.batches(128, seed=0), strict=False):
        cache = Cache(step, steps)
        y_BD = pair(x_BD, architecture)
        trainable.loss(x_BD, y_BD, {"sparsity_loss": 0.02}, cache).backward()
        for hook in hooks:
            hook.post_backward(cache)
        optimizer.step()
        optimizer.zero_grad()
        for hook in hooks:
            hook.post_step(cache)
        losses.append(float((cache.run_once(trainable.model, x_BD).detach() - y_BD).square().mean()))
    return losses


@CHOICE
def test_learns_and_keeps_its_shape(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    architecture = build(name, options)
    losses = train(architecture)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    if name in UNIT_NORM:
        norms_F = torch.linalg.vector_norm(architecture.init.decoder.weight.detach(), dim=1)
        torch.testing.assert_close(norms_F, torch.ones(F))

    model = architecture.trainable.eval().model
    save(architecture, tmp_path, hook_points=["synthetic"], lineage={})
    loaded = load(tmp_path)
    assert type(loaded.architecture) is type(architecture)
    assert loaded.architecture.cfg == architecture.cfg
    x_BD = SyntheticSource(d_in=D, scale=4.0).sample(200, "test")
    with torch.no_grad():
        codes_BF = model.encode(x_BD).dense()
        assert codes_BF.any()
        assert torch.equal(loaded.encode(x_BD).dense(), codes_BF)
        assert torch.equal(loaded.model(x_BD), model(x_BD))


@CHOICE
def test_use_is_a_function_of_each_token_alone(name: str, options: dict[str, Any]) -> None:
    architecture = build(name, options)
    train(architecture, steps=5)
    model = architecture.trainable.eval().model
    x_BD = SyntheticSource(d_in=D, scale=4.0).sample(20, "test")
    with torch.no_grad():
        one_by_one = torch.cat([model.encode(row[None]).dense() for row in x_BD])
        torch.testing.assert_close(model.encode(x_BD).dense(), one_by_one, rtol=1e-4, atol=1e-4)


@CHOICE
def test_what_is_steered_is_the_sparsity_loss(name: str, options: dict[str, Any]) -> None:
    steered = "sparsity_loss" in build(name, options).trainable.losses
    takes_k = name in {"topk", "batchtopk", "matryoshka"} or "topk" in options.get("nonlinearity", "")
    takes_k |= "transcoder" in name and not options
    assert steered == (not takes_k and options.get("penalty") != "quadratic")


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "transcoder"])
def test_without_a_target_there_is_no_k(name: str) -> None:
    cls = SAEConfig(architecture=name).architecture_class()
    with pytest.raises(InputError, match=r"train\.l0_target: .*takes its k from here"):
        _ = cls(d_in=D, d_sae=F).trainable


@pytest.mark.parametrize("prefixes", [[0.5], [0.5, 0.25, 1.0], [0.5, 0.5, 1.0], [], [0.0, 1.0], [0.5, 1.5]])
def test_prefixes_of_a_matryoshka_are_nested_up_to_the_whole(prefixes: list[float]) -> None:
    with pytest.raises(InputError, match=r"sae\.matryoshka\.prefixes"):
        parse_config(SAEConfig, {"matryoshka": {"prefixes": prefixes}}, "sae")


def test_prefixes_are_shares_of_the_latents_each_once() -> None:
    architecture = build("matryoshka", {"prefixes": [0.001, 0.002, 0.25, 1.0]})
    _ = architecture.trainable
    assert architecture.prefixes == [1, 8, 32]  # type: ignore[attr-defined]


def test_quadratic_penalty_brings_l0_to_its_target_without_steering() -> None:
    architecture = build("jumprelu", {"penalty": "quadratic"})
    train(architecture, steps=1500)
    codes = architecture.trainable.eval().model.encode(SyntheticSource(d_in=D, scale=4.0).sample(20_000, "test"))
    assert float(codes.l0()) == pytest.approx(K, rel=0.02)


def test_l0_of_batchtopk_in_use_is_its_k() -> None:
    architecture = build("batchtopk", {})
    train(architecture, steps=600)
    codes = architecture.trainable.eval().model.encode(SyntheticSource(d_in=D, scale=4.0).sample(20_000, "test"))
    assert float(codes.l0()) == pytest.approx(K, rel=0.02)
