"""The initializer's factories: what is shared, tied, detached, and when it is too late.

Shapes: B tokens in a batch, D dimensions of an input, F latents.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sae.architecture import SAE, Architecture, Initializer, load, loss_prop, model_prop, save
from sae.components import L2Loss, NormFeatures
from sae.components.parameters import DecoderRows, EncoderRows, TiedRows
from sae.config import InputError, SaeError, SweepableConfig
from sae.core import Cache, Seq

D, F = 4, 12
X_BD = torch.randn(6, D, generator=torch.Generator().manual_seed(0))


class Tied(Architecture[SweepableConfig]):
    """An SAE that decodes with its encoder's rows."""

    def setup(self) -> None:
        self.init._decoder.tie_weights()
        self.init._decoder.add_wrapper(NormFeatures)

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(centre=self.init._decoder.sub_bias(), lin=self.init.encoder),
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


def test_tied_weights_are_one_parameter_that_learns_from_both_sides() -> None:
    architecture = Tied(d_in=D, d_sae=F)
    model = architecture.core_model
    rows = architecture.init._encoder.raw.weight
    assert architecture.init._decoder.raw.weight is rows
    assert isinstance(rows, EncoderRows)
    assert isinstance(rows, DecoderRows)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(F))
    architecture.trainable.loss(X_BD, X_BD, {}, Cache()).backward()
    W = rows.detach().double().requires_grad_()
    z = (X_BD.double() @ W.T).relu()
    (z @ W - X_BD.double()).square().mean().backward()
    torch.testing.assert_close(rows.grad.double(), W.grad, rtol=1e-4, atol=1e-6)
    assert sum(isinstance(p, TiedRows) for p in model.parameters()) == 1


def test_tied_weights_stay_tied_when_saved_loaded_and_copied(tmp_path: Path) -> None:
    architecture = Tied(d_in=D, d_sae=F)
    model = architecture.core_model
    with torch.no_grad():
        architecture.init._encoder.raw.weight.normal_(generator=torch.Generator().manual_seed(1))
    save(architecture, tmp_path, hook_points=["x"], lineage={})
    loaded = load(tmp_path)
    assert torch.equal(loaded(X_BD), model(X_BD).detach())
    twin = copy.deepcopy(architecture)
    assert twin.init._encoder.raw.weight is twin.init._decoder.raw.weight
    assert twin.init._encoder.raw.weight is not architecture.init._encoder.raw.weight


def test_weights_of_different_widths_cannot_be_tied() -> None:
    with pytest.raises(SaeError, match="differ in width"):
        Initializer(D, F, d_out=D + 1)._decoder.tie_weights()


@pytest.mark.parametrize("first", ["encoder", "decoder"])
def test_what_comes_after_the_building_comes_too_late(first: str) -> None:
    init = Initializer(D, F)
    getattr(init, first)
    factory = getattr(init, f"_{first}")
    for action in (lambda: factory.add_wrapper(NormFeatures), lambda: factory.const_init_bias(1.0), init._decoder.tie_weights):
        with pytest.raises(SaeError, match=r"too late to .*built already.*setup\(\)"):
            action()
    with pytest.raises(SaeError, match="too late to set the bias"):
        factory.bias = False


def test_decoder_starts_at_the_encoders_rows_or_at_its_own() -> None:
    tied, own = Initializer(D, F), Initializer(D, F)
    own._decoder.tied_init = False
    cosine = nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(tied.encoder.weight, tied.decoder.weight), torch.ones(F))
    assert float(cosine(own.encoder.weight, own.decoder.weight).detach().abs().min()) < 0.9
    for init in (tied, own):
        torch.testing.assert_close(init.decoder.weight.norm(dim=1), torch.ones(F))
    assert Initializer(D, F, d_out=7).decoder.weight.shape == (F, 7)


@pytest.mark.parametrize(("name", "shape"), [("_encoder", (F, D)), ("_decoder", (F, 7))])
def test_new_maps_are_independent_and_wrapped_alike(name: str, shape: tuple[int, int]) -> None:
    init = Initializer(D, F, d_out=7)
    factory = getattr(init, name)
    factory.add_wrapper(nn.Sequential)
    shared, new = factory.get(), factory.new()
    assert factory.get() is shared
    assert new is not shared
    assert type(new) is nn.Sequential
    assert new[0].weight.shape == shape
    assert new[0].weight is not shared[0].weight


def test_bias_starts_where_it_is_told_or_is_not_there() -> None:
    init = Initializer(D, F, center_D=torch.arange(4.0))
    init._encoder.const_init_bias(-0.5)
    assert init.encoder.bias.tolist() == [-0.5] * F
    assert init.decoder.bias.tolist() == [0, 1, 2, 3]
    without = Initializer(D, F)
    without._encoder.bias = without._decoder.bias = False
    assert without.encoder.bias is without.decoder.bias is None
    with pytest.raises(SaeError, match="no bias to subtract"):
        without._decoder.sub_bias()


def test_pieces_have_the_shapes_of_their_spaces() -> None:
    init = Initializer(D, F, d_out=7)
    assert init.data_bias().shape == (D,)
    assert init.latent_bias().shape == init.latent_threshold(1.0).shape == init.dict_bias().shape == (F,)
    assert init.skip()(X_BD).shape == (6, 7)
    assert not init.skip()(X_BD).any()
    assert torch.equal(init.new_encoder_bias()(torch.ones(2, F)), torch.ones(2, F))


@pytest.mark.parametrize(("target", "least"), [(None, 1), (0.5, 1), (0, 0.01)])
def test_k_comes_from_the_target(target: float | None, least: float) -> None:
    with pytest.raises(InputError, match=rf"train\.l0_target: This takes its k from here.*{least} or more"):
        Initializer(D, F, l0_target=target).k("This", least=least)
    assert Initializer(D, F, l0_target=2.5).k("This") == 2.5


def test_rows_may_start_at_a_norm_of_ones_choice() -> None:
    init = Initializer(6, 10)
    init._encoder.row_norm, init._decoder.row_norm = 0.1, 0.5
    encoder_FD, decoder_FD = init.encoder.weight.detach(), init.decoder.weight.detach()
    torch.testing.assert_close(encoder_FD.norm(dim=1), torch.full((10,), 0.1))
    torch.testing.assert_close(decoder_FD, 5 * encoder_FD)
