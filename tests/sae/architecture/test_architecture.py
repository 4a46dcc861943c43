"""What an architecture declares is found, checked, and built once, under its seed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.architecture import SAE, Architecture, aux_model_prop, loss_prop, metric_prop, model_prop
from sae.architectures.vanilla import VanillaConfig, VanillaSAE
from sae.components import CosineDistanceLoss, L2Loss, NormFeatures, SparsityPenaltyLoss
from sae.config import InputError, SaeError, SweepableConfig
from sae.core import Cache


class Plain(Architecture[SweepableConfig]):
    """A model and an auxiliary one that share the decoder, with losses on both."""

    def setup(self) -> None:
        self.calls = [*getattr(self, "calls", []), "setup"]

    @cached_property
    def shared(self) -> nn.Module:
        return self.init.decoder

    @model_prop
    def main(self) -> SAE:
        self.calls.append("main")
        return SAE(encoder_pre=self.init.encoder, nonlinearity=nn.ReLU(), decoder=self.shared)

    @aux_model_prop
    def helper(self) -> SAE:
        self.calls.append("helper")
        return SAE(encoder_pre=nn.Linear(self.d_in, self.d_sae), nonlinearity=nn.ReLU(), decoder=self.shared)

    L2_loss = main.add_loss(L2Loss)
    angle = main.add_metric(CosineDistanceLoss)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.main)

    helper_loss = helper.add_loss(L2Loss)


def weights(architecture: Architecture[Any]) -> list[Tensor]:
    return [p.detach().clone() for p in architecture.trainable.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_declared_parts_are_found_under_their_names() -> None:
    trainable = Plain(d_in=4, d_sae=8).trainable
    assert set(trainable.losses) == {"L2_loss", "sparsity_loss", "helper_loss"}
    assert list(trainable.metrics) == ["angle"]
    assert list(trainable.aux) == ["helper"]


@pytest.mark.parametrize("first", ["main", "helper", "L2_loss", "trainable", "core_model"])
def test_parts_are_built_once_whichever_is_asked_for_first(first: str) -> None:
    architecture = Plain(d_in=4, d_sae=8, seed=5)
    getattr(architecture, first)
    assert architecture.core_model is architecture.main is architecture.trainable.model is architecture.L2_loss.model
    assert architecture.calls == ["setup", "main", "helper"]
    assert same(weights(architecture), weights(Plain(d_in=4, d_sae=8, seed=5)))


def test_same_seed_same_weights_and_another_seed_others() -> None:
    one, two, three = (VanillaSAE(d_in=6, d_sae=12, seed=seed).trainable.model for seed in (1, 1, 2))
    assert torch.equal(one.encoder["encoder_pre"]["lin"].weight, two.encoder["encoder_pre"]["lin"].weight)
    assert not torch.equal(one.encoder["encoder_pre"]["lin"].weight, three.encoder["encoder_pre"]["lin"].weight)


def test_weights_depend_on_no_global_generator_and_move_none() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(Plain(d_in=4, d_sae=8))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, weights(Plain(d_in=4, d_sae=8)))


def test_decoder_starts_at_the_encoders_rows_with_unit_norm_and_at_the_centre() -> None:
    center_D = torch.tensor([1.0, -2.0, 3.0])
    architecture = VanillaSAE(d_in=3, d_sae=10, center_D=center_D)
    decoder, encoder = architecture.core_model.decoder, architecture.init.encoder
    torch.testing.assert_close(decoder.weight, torch.nn.functional.normalize(encoder.weight, dim=1))
    assert torch.equal(decoder.bias.detach(), center_D)
    assert float(encoder.weight.detach().abs().max()) <= 1 / 3**0.5
    assert float(encoder.bias.detach().abs().max()) == 0


def test_another_width_out_than_in_gives_a_decoder_of_that_width() -> None:
    architecture = VanillaSAE(VanillaConfig(pre_bias=False), d_in=3, d_sae=10, d_out=5)
    x_BD, y_BD = torch.randn(4, 3), torch.randn(4, 5)
    assert architecture.core_model(x_BD).shape == (4, 5)
    assert architecture.trainable.loss(x_BD, y_BD, {}, Cache()).isfinite()
    torch.testing.assert_close(architecture.core_model.decoder.weight.norm(dim=1), torch.ones(10))


def test_no_model_is_an_error() -> None:
    class Empty(Architecture[SweepableConfig]):
        pass

    with pytest.raises(SaeError, match=r"Empty: .*exactly one @model_prop.*none"):
        _ = Empty(d_in=2, d_sae=4).trainable


def test_two_models_are_an_error_at_the_class() -> None:
    with pytest.raises(SaeError, match=r"Two: .*exactly one @model_prop.*main, other"):

        class Two(Plain):
            @model_prop
            def other(self) -> SAE:
                return self.main


def test_added_loss_without_a_name_is_an_error_at_the_class() -> None:
    with pytest.raises(SaeError, match=r"Lossy\.main: .*lost.*L2_loss = main\.add_loss"):

        class Lossy(Architecture[SweepableConfig]):
            @model_prop
            def main(self) -> SAE:
                raise NotImplementedError

            main.add_loss(L2Loss)


def test_subclass_replaces_a_part_by_its_name_and_losses_of_the_base_judge_it() -> None:
    class Wider(Plain):
        @model_prop
        def main(self) -> SAE:
            return SAE(encoder_pre=nn.Linear(self.d_in, self.d_sae), nonlinearity=nn.Softplus(), decoder=self.init.decoder)

        @loss_prop
        def sparsity_loss(self) -> L2Loss:
            return L2Loss(self.helper)

    architecture = Wider(d_in=4, d_sae=8)
    assert architecture.L2_loss.model is architecture.main is architecture.core_model
    assert isinstance(architecture.main.encoder["nonlinearity"], nn.Softplus)
    assert architecture.trainable.losses["sparsity_loss"].model is architecture.helper


def test_subclass_may_drop_a_part() -> None:
    class Fewer(Plain):
        helper_loss = None

    assert set(Fewer(d_in=4, d_sae=8).trainable.losses) == {"L2_loss", "sparsity_loss"}


def test_config_class_is_the_one_in_brackets() -> None:
    assert VanillaSAE.config_class is VanillaConfig
    assert VanillaSAE(d_in=2, d_sae=4).cfg == VanillaConfig()

    class Derived(VanillaSAE):
        pass

    assert Derived.config_class is VanillaConfig


def test_config_of_another_architecture_is_refused() -> None:
    class Other(SweepableConfig):
        pass

    with pytest.raises(SaeError, match=r"VanillaSAE: .*found Other, expected VanillaConfig"):
        VanillaSAE(Other(), d_in=2, d_sae=4)  # type: ignore[arg-type]


def test_wrappers_and_bias_come_too_late_once_the_map_is_built() -> None:
    architecture = VanillaSAE(d_in=2, d_sae=4)
    _ = architecture.init.encoder, architecture.trainable
    with pytest.raises(SaeError, match="too late to add NormFeatures: the decoder"):
        architecture.init._decoder.add_wrapper(NormFeatures)
    with pytest.raises(SaeError, match="too late to set the bias: the encoder"):
        architecture.init._encoder.bias = False


def test_decoder_without_bias_has_none_to_subtract() -> None:
    architecture = Plain(d_in=2, d_sae=4)
    architecture.init._decoder.bias = False
    with pytest.raises(SaeError, match="no bias to subtract"):
        architecture.init._decoder.sub_bias()


@pytest.mark.parametrize("parts", [{}, {"encoder_pre": nn.Identity()}, {"encoder": nn.Identity(), "nonlinearity": nn.ReLU()}])
def test_sae_takes_its_encoder_whole_or_in_two_parts(parts: dict[str, nn.Module]) -> None:
    with pytest.raises(SaeError, match="either `encoder`"):
        SAE(decoder=nn.Identity(), **parts)


def test_metric_prop_is_recorded_and_not_trained_on() -> None:
    class Watched(VanillaSAE):
        @metric_prop
        def angle(self) -> CosineDistanceLoss:
            return CosineDistanceLoss(self.model)

    x_BD = torch.randn(5, 4)
    plain, watched = VanillaSAE(d_in=4, d_sae=8).trainable, Watched(d_in=4, d_sae=8).trainable
    cache = Cache()
    assert torch.equal(watched.loss(x_BD, x_BD, {}, cache), plain.loss(x_BD, x_BD, {}, Cache()))
    assert not cache.read("angle").requires_grad
    expected = 1 - torch.nn.functional.cosine_similarity(x_BD, plain.model(x_BD), dim=1).mean()
    torch.testing.assert_close(cache.read("angle"), expected.detach())


def test_unknown_coefficient_names_the_nearest_loss() -> None:
    trainable = VanillaSAE(d_in=4, d_sae=8).trainable
    trainable.check_coefficients(["L2_loss", "sparsity_loss"], "train.coefficients")
    with pytest.raises(InputError) as caught:
        trainable.check_coefficients({"sparsty_loss": 1.0}, "train.coefficients")
    assert str(caught.value) == (
        "train.coefficients: this coefficient names no loss (found sparsty_loss, expected one of L2_loss, sparsity_loss); "
        "did you mean 'sparsity_loss'?"
    )


class Choosy(Plain):
    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss | None:
        return None


def test_loss_that_is_none_is_not_there() -> None:
    trainable = Choosy(d_in=4, d_sae=8).trainable
    assert set(trainable.losses) == {"L2_loss", "helper_loss"}
    with pytest.raises(InputError, match="names no loss"):
        trainable.check_coefficients(["sparsity_loss"], "train.coefficients")


@pytest.mark.parametrize(
    ("given", "widths", "target_widths"),
    [
        ({}, [6], [6]),
        ({"widths": [2, 4]}, [2, 4], [2, 4]),
        ({"widths": [2, 4], "d_out": 5}, [2, 4], [5]),
        ({"d_out": 5, "target_widths": [3, 2]}, [6], [3, 2]),
    ],
)
def test_widths_of_the_hook_points(given: dict[str, Any], widths: list[int], target_widths: list[int]) -> None:
    architecture = Plain(d_in=6, d_sae=8, **given)
    assert (architecture.widths, architecture.target_widths) == (widths, target_widths)


@pytest.mark.parametrize("given", [{"widths": [2, 3]}, {"target_widths": [7]}])
def test_widths_that_do_not_add_up_are_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(SaeError, match=r"widths: these widths do not add up.*6 in all"):
        Plain(d_in=6, d_sae=8, **given)
