"""The `sae` section: which architecture, and how wide."""

from __future__ import annotations

from typing import Any

import pytest

from sae.architecture import Architecture
from sae.architectures import SHIPPED
from sae.architectures.config import SAEConfig
from sae.architectures.vanilla import VanillaConfig, VanillaSAE
from sae.config import InputError, parse_config
from tests.sae.architecture.test_seed_examples import Gated, GatedConfig

OWN = "tests.sae.architecture.test_seed_examples:Gated"


def section(**data: Any) -> SAEConfig:
    return parse_config(SAEConfig, data, "sae")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_architectures_go_by_name_with_their_own_section(name: str) -> None:
    config = section(architecture=name)
    cls = config.architecture_class()
    assert issubclass(cls, Architecture)
    assert type(config.architecture_config()) is cls.config_class
    trainable = cls(config.architecture_config(), d_in=4, d_sae=8, l0_target=2).trainable
    assert "L2_loss" in trainable.losses


def test_only_the_chosen_section_is_read() -> None:
    config = section(architecture="vanilla", vanilla={"pre_bias": True}, own={"whatever": 1})
    assert config.architecture_class() is VanillaSAE
    assert config.architecture_config() == VanillaConfig(pre_bias=True)


def test_own_class_takes_its_config_from_its_own_section() -> None:
    config = section(architecture=OWN, own={"pre_bias": True})
    assert config.architecture_class() is Gated
    assert config.architecture_config() == GatedConfig(pre_bias=True)
    with pytest.raises(InputError, match=r"sae\.own\.pre_bais: .*did you mean 'sae\.own\.pre_bias'"):
        section(architecture=OWN, own={"pre_bais": True}).architecture_config()


def test_unknown_architecture_is_refused_at_its_field_and_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        section(architecture="vanila")
    assert str(caught.value).startswith("sae.architecture: no such architecture; one of ")
    assert "did you mean 'vanilla'?" in str(caught.value)
    assert "found 'vanila'" in str(caught.value)


def test_own_class_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"sae\.architecture: .*did you mean 'Gated'"):
        section(architecture=OWN.replace("Gated", "Gatd")).architecture_class()


@pytest.mark.parametrize(
    ("data", "d_in", "d_sae"),
    [({"expansion": 8}, 48, 384), ({"expansion": 0.5}, 48, 24), ({"d_sae": 7}, 48, 7), ({"expansion": 8, "d_sae": 9}, 48, 9)],
)
def test_width_is_the_expansion_or_the_number_given(data: dict[str, Any], d_in: int, d_sae: int) -> None:
    assert section(**data).width(d_in) == d_sae


def test_sae_without_latents_is_refused() -> None:
    with pytest.raises(InputError, match=r"sae\.expansion: .*without latents"):
        section(expansion=0.001).width(48)
    with pytest.raises(InputError, match=r"sae\.d_sae"):
        section(d_sae=0)
