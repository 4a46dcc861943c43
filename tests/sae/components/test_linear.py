"""The linear maps, their detached views, and the metrics on the way."""

from __future__ import annotations

import pytest
import torch

from sae.architecture import Initializer
from sae.codes import as_codes
from sae.components import ActMetrics, PreActMetrics
from sae.components.linear import DecoderLinear, DetachedLinear, EncoderLinear, SkipLinear
from sae.core import Cache

F, D, B = 5, 3, 4
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT_FD = torch.randn(F, D, generator=GENERATOR)
X_BD = torch.randn(B, D, generator=GENERATOR)
CODES_BF = torch.randn(B, F, generator=GENERATOR).relu()


@pytest.mark.parametrize("bias", [True, False])
def test_encoder_reads_latents_off_its_rows(bias: bool) -> None:
    bias_F = torch.arange(float(F)) if bias else None
    out_BF = EncoderLinear(WEIGHT_FD, bias_F)(X_BD)
    expected_BF = X_BD.double() @ WEIGHT_FD.double().T + (torch.arange(F).double() if bias else 0)
    torch.testing.assert_close(out_BF.double(), expected_BF, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_decoder_writes_its_rows(bias: bool) -> None:
    bias_D = torch.arange(float(D)) if bias else None
    decoder = DecoderLinear(WEIGHT_FD, bias_D)
    expected_BD = CODES_BF.double() @ WEIGHT_FD.double() + (torch.arange(D).double() if bias else 0)
    torch.testing.assert_close(decoder(CODES_BF).double(), expected_BD, rtol=1e-5, atol=1e-5)
    assert torch.equal(decoder(as_codes(CODES_BF)), decoder(CODES_BF))


@pytest.mark.parametrize("bias", [True, False])
def test_detached_views_compute_the_same_and_pass_gradients_to_the_input_only(bias: bool) -> None:
    for source, x in (
        (EncoderLinear(WEIGHT_FD.clone(), torch.ones(F) if bias else None), X_BD),
        (DecoderLinear(WEIGHT_FD.clone(), torch.ones(D) if bias else None), CODES_BF),
    ):
        view, leaf = DetachedLinear(source), x.clone().requires_grad_()
        out = view(leaf)
        assert torch.equal(out, source(x))
        out.sum().backward()
        assert leaf.grad is not None
        assert all(p.grad is None for p in source.parameters())
        assert list(view.parameters()) == []


def test_detached_view_follows_its_source() -> None:
    source = DecoderLinear(WEIGHT_FD.clone(), torch.zeros(D))
    view = DetachedLinear(source)
    with torch.no_grad():
        source.weight.mul_(2)
    torch.testing.assert_close(view(CODES_BF), 2 * (CODES_BF @ WEIGHT_FD))


def test_act_metrics_record_the_codes_and_their_figures() -> None:
    cache = Cache()
    codes = as_codes(CODES_BF)
    assert ActMetrics()(codes, cache=cache) is codes
    assert cache.read("codes") is codes
    assert float(cache.read("l0")) == pytest.approx(float((CODES_BF != 0).double().sum(1).mean()))
    assert float(cache.read("l1")) == pytest.approx(float(CODES_BF.double().abs().sum(1).mean()))


def test_a_hook_on_the_codes_patches_what_flows_on() -> None:
    cache = Cache()
    cache.on_write("codes", lambda scope, codes: as_codes(torch.zeros_like(codes.dense())))
    assert float(ActMetrics()(as_codes(CODES_BF), cache=cache).dense().sum()) == 0
    assert float(cache.read("l0")) == 0


def test_a_hook_on_the_pre_activations_patches_what_flows_on() -> None:
    cache = Cache()
    cache.on_write("preacts", lambda scope, x: -x)
    assert torch.equal(PreActMetrics()(CODES_BF, cache=cache), -CODES_BF)


def test_encoder_records_its_projection_and_a_hook_may_replace_it() -> None:
    cache = Cache()
    cache.on_write("projection", lambda scope, x: x + 1)
    out_BF = EncoderLinear(WEIGHT_FD, None)(X_BD, cache=cache)
    assert cache.read("projection") is out_BF
    torch.testing.assert_close(out_BF, X_BD @ WEIGHT_FD.T + 1)


@pytest.mark.parametrize(
    ("view", "cut"), [("detached", {"weight", "bias"}), ("bias_detached", {"bias"}), ("detached_no_bias", {"weight"})]
)
def test_views_cut_off_what_they_say(view: str, cut: set[str]) -> None:
    for name, x in (("_encoder", X_BD), ("_decoder", CODES_BF)):
        factory = getattr(Initializer(D, F), name)
        factory.const_init_bias(2.0)
        out = getattr(factory, view)(x.clone().requires_grad_())
        expected = factory.raw(x)
        torch.testing.assert_close(out, expected - 2 if view == "detached_no_bias" else expected)
        out.sum().backward()
        learning = {n for n, p in factory.raw.named_parameters() if p.grad is not None}
        assert learning == {"weight", "bias"} - cut - ({"bias"} if view == "detached_no_bias" else set())


def test_skip_is_a_map_from_inputs_to_targets() -> None:
    weight = torch.randn(2, D, generator=GENERATOR)
    torch.testing.assert_close(SkipLinear(weight)(X_BD), X_BD @ weight.T)
