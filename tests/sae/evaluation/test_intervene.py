"""SAEs spliced into a language model, against passes where plain hooks of this file put tensors in by hand.

The dictionary's arithmetic (codes, decoder rows, bias) is done here in float64, apart from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

import sae
from sae.architecture import SAE, Architecture, TrainedSAE, import_architecture, model_prop
from sae.architecture.normalizer import Normalizer
from sae.architectures import SHIPPED
from sae.architectures.topk import TopKConfig, TopKSAE
from sae.architectures.vanilla import VanillaConfig, VanillaSAE
from sae.components import L2Loss
from sae.config import InputError, SweepableConfig, seeded_global_rng
from tests.sae.language_model import random_tokens, tiny_llama

MODEL = tiny_llama(layers=3)
EARLY, LATE = "model.layers.0", "model.layers.1"
S, C, D, F, K = 3, 7, 16, 40, 5
TOKENS = random_tokens(S, C)
NOT_BOS = torch.arange(C).expand(S, C) > 0


def trained(
    hook_point: str = LATE, *, seed: int = 0, dense: bool = False, d_in: int = D, target: str | None = None
) -> TrainedSAE:
    """An untrained SAE of random weights, whose biases are no zeros."""
    shape: dict[str, int] = {"d_in": d_in, "d_sae": F, "seed": seed}
    if dense:
        made: Architecture[Any] = VanillaSAE(VanillaConfig(pre_bias=False), **shape)
    else:
        made = TopKSAE(TopKConfig(pre_bias=False), l0_target=K, **shape)
    made.instantiate()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        made.init._encoder.raw.bias.copy_(0.3 * torch.randn(F, generator=generator))
        made.init._decoder.raw.bias.copy_(torch.randn(d_in, generator=generator))
    return TrainedSAE(made, [hook_point], {}, None if target is None else [target])


def weights(of: TrainedSAE) -> tuple[Tensor, Tensor]:
    """Decoder rows and bias in float64."""
    decoder = of.architecture.init._decoder.raw
    return decoder.weight.detach().double(), decoder.bias.detach().double()


def codes_by_hand(of: TrainedSAE, x_SCD: Tensor) -> Tensor:
    encoder = of.architecture.init._encoder.raw
    preacts = x_SCD.double() @ encoder.weight.detach().double().T + encoder.bias.detach().double()
    if isinstance(of.architecture, TopKSAE):
        smallest = preacts.sort(-1, descending=True).values[..., K - 1, None]
        preacts = preacts.where(preacts >= smallest, 0)
    return preacts.clamp(min=0)


@contextmanager
def put(model: nn.Module, module: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A plain hook, made here: what the module returns, changed."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        new = change(x).to(x.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = model.get_submodule(module).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits(model: nn.Module = MODEL, tokens: Tensor = TOKENS) -> Tensor:
    output: Tensor = model(input_ids=tokens, use_cache=False).logits
    return output


def logits_with(change: Callable[[Tensor], Tensor], module: str = LATE) -> Tensor:
    with put(MODEL, module, change):
        return logits()


def hidden(layer: int = 1) -> Tensor:
    states: Tensor = MODEL(input_ids=TOKENS, output_hidden_states=True).hidden_states[layer + 1]
    return states


def close(found: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=atol, rtol=1e-4)


def hooks_left(model: nn.Module = MODEL) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("dense", [False, True])
def test_model_goes_on_from_the_reconstruction(dense: bool) -> None:
    one = trained(dense=dense)
    rows_FD, bias_D = weights(one)
    with sae.splice(MODEL, one) as spliced:
        found = logits()
    close(found, logits_with(lambda x: codes_by_hand(one, x) @ rows_FD + bias_D))
    close(spliced.codes.dense().reshape(S, C, F), codes_by_hand(one, hidden()))
    assert (found - logits()).abs().max() > 0.1


def test_tokens_outside_the_mask_keep_their_activations() -> None:
    one = trained()
    with sae.splice(MODEL, one, positions=NOT_BOS):
        found = logits()
    close(found, logits_with(lambda x: torch.cat([x[:, :1], one(x[:, 1:])], dim=1)))
    with sae.splice(MODEL, one, positions=torch.zeros(S, C, dtype=torch.bool)):
        found = logits()
    assert torch.equal(found, logits())


def test_several_saes_at_once_each_read_what_the_one_before_left() -> None:
    early, late = trained(EARLY, seed=1), trained(LATE, seed=2)
    with sae.splice(MODEL, [late, early]) as (of_late, of_early):
        found = logits()
    with put(MODEL, EARLY, early):
        seen = hidden()
        expected = logits_with(late)
    close(found, expected)
    close(of_early.codes.dense().reshape(S, C, F), codes_by_hand(early, hidden(0)))
    assert of_late.sae is late
    close(of_late.codes.dense().reshape(S, C, F), codes_by_hand(late, seen), atol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("error_term", [False, True])
def test_ablation_subtracts_the_latent_times_its_row(error_term: bool, dense: bool) -> None:
    one = trained(dense=dense)
    rows_FD, bias_D = weights(one)
    z_SCF = codes_by_hand(one, hidden())
    latent = int(z_SCF.sum((0, 1)).argmax())

    def without(x: Tensor) -> Tensor:
        z = codes_by_hand(one, x)
        kept = x if error_term else z @ rows_FD + bias_D
        return kept - z[..., latent, None] * rows_FD[latent]

    with sae.splice(MODEL, one, error_term=error_term) as spliced:
        spliced.ablate(latent)
        found = logits()
    close(found, logits_with(without))
    assert spliced.edited.dense()[:, latent].abs().max() == 0
    assert spliced.codes.dense()[:, latent].max() > 0
    if error_term:
        with sae.ablate(MODEL, one, [latent]):
            assert torch.equal(logits(), found)


@pytest.mark.parametrize("dense", [False, True])
def test_steering_adds_the_value_times_the_row(dense: bool) -> None:
    one = trained(dense=dense)
    rows_FD, _ = weights(one)
    with sae.steer(MODEL, one, {3: 4.0, 11: -2.5}):
        found = logits()
    close(found, logits_with(lambda x: x + 4.0 * rows_FD[3] - 2.5 * rows_FD[11]))
    with sae.steer(MODEL, one, {3: 4.0}, positions=NOT_BOS):
        found = logits()
    close(found, logits_with(lambda x: x + NOT_BOS[..., None] * 4.0 * rows_FD[3]))


@pytest.mark.parametrize("dense", [False, True])
def test_edits_are_composed_in_their_order(dense: bool) -> None:
    one = trained(dense=dense)
    rows_FD, bias_D = weights(one)

    def by_hand(x: Tensor) -> Tensor:
        z = codes_by_hand(one, x)
        z[..., [1, 2, 3]] *= 0.5
        z[..., 2] += 3
        z[..., 2] *= 2
        z[..., 4] = 7
        z[..., [5, 6]] = 0
        return z @ rows_FD + bias_D

    with sae.splice(MODEL, one) as spliced:
        spliced.scale([1, 2, 3], 0.5).add(2, 3.0).scale(2, 2.0).set(4, 7.0).ablate(torch.tensor([5, 6]))
        edited = logits()
        spliced.clear()
        cleared = logits()
        assert torch.equal(spliced.codes.dense(), spliced.edited.dense())
    close(edited, logits_with(by_hand))
    close(cleared, logits_with(one))


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - {"crosscoder"}))
def test_every_architecture_that_ships_is_spliced_and_steered(name: str) -> None:
    made = import_architecture(SHIPPED[name], "test")(d_in=D, d_sae=F, l0_target=K)
    with torch.no_grad():
        for parameter in made.trainable.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    one = TrainedSAE(made, [LATE], {})
    with sae.splice(MODEL, one) as spliced:
        found = logits()
    close(found, logits_with(one))
    assert spliced.codes.l0() > 0
    with sae.steer(MODEL, one, {3: 4.0}):
        steered = logits()
    close(steered, logits_with(lambda x: x + 4.0 * weights(one)[0][3]))
    fired = int(spliced.codes.fired().argmax())
    z_SC = spliced.codes.dense()[:, fired].reshape(S, C)
    with sae.ablate(MODEL, one, fired):
        ablated = logits()
    close(ablated, logits_with(lambda x: x - z_SC[..., None] * weights(one)[0][fired]))


def test_error_term_without_edits_leaves_every_bit() -> None:
    with sae.splice(MODEL, trained(), error_term=True) as spliced:
        found = logits()
    assert torch.equal(found, logits())
    assert spliced.codes.shape == (S * C, F)
    assert spliced.codes.l0() <= K


def test_transcoder_reads_at_one_place_and_writes_at_another() -> None:
    mlp = "model.layers.1.mlp"
    one = trained(mlp + ".input", target=mlp)
    rows_FD, bias_D = weights(one)
    seen: list[Tensor] = []
    handle = MODEL.get_submodule(mlp).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits()
    handle.remove()
    z_SCF = codes_by_hand(one, seen[0])
    with sae.splice(MODEL, one) as spliced:
        found = logits()
    close(found, logits_with(lambda _: z_SCF @ rows_FD + bias_D, mlp))
    close(spliced.codes.dense().reshape(S, C, F), z_SCF)
    latent = int(z_SCF.sum((0, 1)).argmax())
    with sae.ablate(MODEL, one, latent):
        found = logits()
    close(found, logits_with(lambda y: y - z_SCF[..., latent, None] * rows_FD[latent], mlp))


def test_transcoder_whose_target_comes_before_its_input_is_refused() -> None:
    with sae.splice(MODEL, trained(LATE, target=EARLY)), pytest.raises(InputError, match=r"layers.0: no input of the SAE"):
        logits()


class SkipSAE(Architecture[SweepableConfig]):
    """A ReLU SAE with a linear map past its latents."""

    @model_prop
    def model(self) -> SAE:
        skip = nn.Linear(self.d_in, self.d_out, bias=False)
        return SAE(encoder_pre=self.init.encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder, skip=skip)

    L2_loss = model.add_loss(L2Loss)


def test_skip_of_a_transcoder_is_part_of_the_reconstruction_and_no_edit_touches_it() -> None:
    mlp = "model.layers.1.mlp"
    one = TrainedSAE(SkipSAE(d_in=D, d_sae=F), [mlp + ".input"], {}, [mlp])
    seen: list[Tensor] = []
    with put(MODEL, "model.layers.1.post_attention_layernorm", lambda x: seen.append(x) or x):  # type: ignore[func-returns-value]
        logits()
    x_SCD, (rows_FD, _) = seen[0].double(), weights(one)
    z_SCF = codes_by_hand(one, x_SCD)
    whole_SCD = z_SCF @ rows_FD + x_SCD @ one.model.skip.weight.detach().double().T
    with sae.splice(MODEL, one) as spliced:
        found = logits()
        spliced.ablate(range(F))
        skip_alone = logits()
    close(found, logits_with(lambda _: whole_SCD, mlp))
    close(skip_alone, logits_with(lambda _: whole_SCD - z_SCF @ rows_FD, mlp))
    with sae.steer(MODEL, one, {4: 6.0}):
        found = logits()
    close(found, logits_with(lambda y: y + 6.0 * rows_FD[4], mlp))


def test_sae_behind_a_layer_norm_writes_in_each_tokens_own_units() -> None:
    plain = trained()
    one = TrainedSAE(plain.architecture, [LATE], {}, None, Normalizer("layer_norm", [D]))
    rows_FD, bias_D = weights(one)

    def by_hand(x: Tensor) -> Tensor:
        mean, deviation = x.double().mean(-1, keepdim=True), (x.double().var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        z_SCF = codes_by_hand(one, (x.double() - mean) / deviation)
        return (z_SCF @ rows_FD + bias_D) * deviation + mean

    with sae.splice(MODEL, one):
        found = logits()
    close(found, logits_with(by_hand))
    with sae.steer(MODEL, one, {4: 2.0}):
        found = logits()
    close(found, logits_with(lambda x: x + 2.0 * rows_FD[4] * (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_model_of_another_precision_gets_the_reconstruction_of_a_float32_sae(dtype: torch.dtype) -> None:
    model, one = tiny_llama(layers=3).to(dtype), trained()
    inputs: list[Tensor] = []

    def by_hand(x: Tensor) -> Tensor:
        assert x.dtype == dtype
        inputs.append(x)
        return one(x.float()).to(dtype)

    with put(model, LATE, by_hand):
        expected = logits(model)
    with sae.splice(model, one) as spliced:
        found = logits(model)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert torch.equal(spliced.codes.dense(), one.encode(inputs[0].float()).dense())
    untouched = logits(model)
    with sae.splice(model, one, error_term=True) as spliced:
        spliced.scale(0, 1.0)  # an edit that changes nothing
        assert torch.equal(logits(model), untouched)


def test_autocast_of_the_model_does_not_reach_the_sae() -> None:
    one = trained()
    with torch.autocast("cpu", torch.bfloat16), sae.splice(MODEL, one) as spliced:
        logits()
    assert spliced.codes.dense().dtype == torch.float32


def test_modules_that_return_tuples_keep_the_rest_of_them() -> None:
    attention = "model.layers.1.self_attn"
    one = trained(attention)
    assert isinstance(_output_of(attention), tuple)
    with sae.splice(MODEL, one):
        found = logits()
    close(found, logits_with(one, attention))


def _output_of(module: str) -> Any:
    kept: list[Any] = []
    handle = MODEL.get_submodule(module).register_forward_hook(lambda _, __, output: kept.append(output))
    logits()
    handle.remove()
    return kept[0]


def test_encoder_model_is_spliced_too() -> None:
    config = BertConfig(
        vocab_size=70, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16
    )
    with seeded_global_rng(0, "bert"):
        model = BertModel(config).eval().requires_grad_(False)
    one = trained("encoder.layer.0")
    with put(model, "encoder.layer.0", one):
        expected = model(input_ids=TOKENS).last_hidden_state
    with sae.splice(model, one):
        found = model(input_ids=TOKENS).last_hidden_state
    close(found, expected)


def test_generation_is_steered_on_the_tokens_that_it_adds() -> None:
    one = trained()
    rows_FD, _ = weights(one)
    prompt = TOKENS[:, :3]
    more = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    mask = torch.tensor([False, True, True]).expand(S, 3)

    def by_hand(x: Tensor) -> Tensor:
        touched = mask if x.shape[1] == 3 else torch.ones(S, 1, dtype=torch.bool)
        return x + touched[..., None] * 5.0 * rows_FD[7]

    with put(MODEL, LATE, by_hand):
        expected = MODEL.generate(prompt, **more)
    with sae.steer(MODEL, one, {7: 5.0}, positions=mask):
        found = MODEL.generate(prompt, **more)
    assert torch.equal(found.sequences, expected.sequences)
    close(torch.stack(found.logits), torch.stack(expected.logits))
    assert not torch.equal(found.sequences, MODEL.generate(prompt, **more).sequences)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("error_term", [False, True])
def test_gradient_of_codes_is_the_activations_gradient_along_each_row(error_term: bool, dense: bool) -> None:
    one = trained(dense=dense)
    with sae.splice(MODEL, one, error_term=error_term, gradients=True) as spliced:
        found = logits()[:, -1, 5].sum()
        found.backward()
    leaf_SCD = (hidden() if error_term else one(hidden())).detach().requires_grad_()
    expected = logits_with(lambda _: leaf_SCD)[:, -1, 5].sum()
    expected.backward()
    gradient_BF, at_activations = spliced.codes.dense().grad, leaf_SCD.grad
    assert gradient_BF is not None
    assert at_activations is not None
    close(found, expected)
    close(gradient_BF.reshape(S, C, F), at_activations.double() @ weights(one)[0].T)


@pytest.mark.parametrize("error_term", [False, True])
def test_gradients_of_an_early_sae_come_through_the_codes_of_a_late_one(error_term: bool) -> None:
    early, late = trained(EARLY, seed=1, dense=True), trained(LATE, seed=2, dense=True)
    with sae.splice(MODEL, [early, late], error_term=error_term, gradients=True) as (of_early, _):
        logits()[0, -1, 5].backward()
    leaf_SCD = (hidden(0) if error_term else early(hidden(0))).detach().requires_grad_()
    with put(MODEL, EARLY, lambda _: leaf_SCD):  # the late one's error is a constant
        logits_with(lambda x: late(x) + (x - late(x)).detach() if error_term else late(x))[0, -1, 5].backward()
    found, expected = of_early.codes.dense().grad, leaf_SCD.grad
    assert found is not None
    assert expected is not None
    assert expected.abs().max() > 0.01
    close(found.reshape(S, C, F), expected.double() @ weights(early)[0].T)


def test_gradients_under_no_grad_are_refused() -> None:
    with torch.no_grad(), sae.splice(MODEL, trained(), gradients=True), pytest.raises(InputError, match="gradients were asked"):
        logits()


def test_nothing_stays_hooked() -> None:
    before, hooks = logits(), hooks_left()  # transformers may have hooks of its own
    with sae.splice(MODEL, [trained(), trained(EARLY)]):
        assert hooks_left() > hooks
    with pytest.raises(KeyError), sae.splice(MODEL, trained()):
        raise KeyError
    with pytest.raises(InputError), sae.splice(MODEL, [trained(), trained("model.layers.9")]):
        pass
    with pytest.raises(InputError), sae.steer(MODEL, trained(), {F: 1.0}):
        pass
    assert hooks_left() == hooks
    assert torch.equal(logits(), before)


def test_hook_point_of_another_model_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"found model.layers.4.mlp, .*did you mean 'model.layers.\d.mlp'") as error:
        sae.splice(MODEL, trained("model.layers.4.mlp")).__enter__()
    assert "model.layers.2" in str(error.value)


def test_width_that_does_not_fit_is_named() -> None:
    with sae.splice(MODEL, trained(d_in=8)), pytest.raises(InputError, match=r"layers.1: .*found \[3, 7, 16\], .*tokens, 8\]"):
        logits()


@pytest.mark.parametrize("latent", [F, -1, [0, F + 2], torch.tensor([F])])
def test_latent_out_of_range_is_refused(latent: Any) -> None:
    with sae.splice(MODEL, trained()) as spliced:
        for edit in ("scale", "set", "add", "ablate"):
            with pytest.raises(InputError, match=r"no such latent .*expected 0 to 39"):
                getattr(spliced, edit)(latent, *[] if edit == "ablate" else [1.0])


@pytest.mark.parametrize("latent", [1.0, "3", [0.5]])
def test_latent_that_is_no_number_is_refused(latent: Any) -> None:
    with sae.splice(MODEL, trained()) as spliced, pytest.raises(InputError, match="latents go by number"):
        spliced.ablate(latent)


def test_value_that_is_not_finite_is_refused() -> None:
    with sae.splice(MODEL, trained()) as spliced, pytest.raises(InputError, match="value: this is no finite number"):
        spliced.add(0, float("nan"))


def test_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"positions: .*found torch.int64"):
        sae.splice(MODEL, trained(), positions=NOT_BOS.long())
    with sae.splice(MODEL, trained(), positions=NOT_BOS[:, 1:]), pytest.raises(InputError, match=r"found \[3, 6\], .*\[3, 7\]"):
        logits()


def test_codes_before_any_pass_are_an_error() -> None:
    with sae.splice(MODEL, trained()) as spliced, pytest.raises(InputError, match="no activations have passed here yet"):
        _ = spliced.codes


def test_sae_of_several_hook_points_is_refused() -> None:
    crosscoder = trained()
    crosscoder.hook_points = [EARLY, LATE]
    with pytest.raises(InputError, match=r"only an SAE of one hook point .*model.layers.0, model.layers.1"):
        sae.splice(MODEL, crosscoder)


def test_a_model_from_a_directory(tiny_subject: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_subject).eval().requires_grad_(False)
    bare = AutoModel.from_pretrained(tiny_subject).eval().requires_grad_(False)
    one = trained("model.layers.0")
    rows_FD, _ = weights(one)
    with sae.steer(causal, one, {2: 3.0}):
        found = causal(input_ids=TOKENS).logits
    with put(causal, "model.layers.0", lambda x: x + 3.0 * rows_FD[2]):
        close(found, causal(input_ids=TOKENS).logits)
    one.hook_points = one.target_hook_points = ["layers.0"]  # the same place, without the head
    with sae.steer(bare, one, {2: 3.0}):
        close(causal.lm_head(bare(input_ids=TOKENS).last_hidden_state), found)


def test_the_model_that_ships() -> None:
    model = AutoModelForCausalLM.from_pretrained("data/subject", dtype="auto").eval().requires_grad_(False)
    tokens = torch.randint(1, 4096, (2, 12), generator=torch.Generator().manual_seed(0))
    one = trained("model.layers.1", d_in=192)
    rows_FD, _ = weights(one)
    before = logits(model, tokens)
    with sae.splice(model, one, error_term=True) as spliced:
        assert torch.equal(logits(model, tokens), before)
        spliced.add(9, 20.0)
        found = logits(model, tokens)
    with put(model, "model.layers.1", lambda x: x + 20.0 * rows_FD[9]):
        close(found, logits(model, tokens), atol=0.05)  # the model is in float16
    assert found.dtype == torch.float16
    assert (found - before).abs().max() > 0.5
