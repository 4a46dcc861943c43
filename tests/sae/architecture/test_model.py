"""`SAE`: what it takes, and what goes past its latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sae.architecture import SAE, Initializer
from sae.components import PreActMetrics
from sae.config import SaeError
from sae.core import Cache, Seq

X_BD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def sae(**parts: Any) -> SAE:
    init = Initializer(4, 8)
    return SAE(encoder_pre=init.encoder, nonlinearity=nn.ReLU(), decoder=init.decoder, **parts)


def test_skip_is_added_to_the_reconstruction() -> None:
    skip = nn.Linear(4, 4)
    plain, model = sae(), sae(skip=skip)
    model.load_state_dict(plain.state_dict() | {f"skip.{k}": v for k, v in skip.state_dict().items()})
    torch.testing.assert_close(model(X_BD), plain(X_BD) + skip(X_BD))
    assert torch.equal(model.decode(model.encode(X_BD), X_BD), model(X_BD))


def test_skip_needs_the_input_to_decode() -> None:
    model = sae(skip=nn.Linear(4, 4))
    with pytest.raises(SaeError, match=r"needs the input too.*decode\(codes, x\)"):
        model.decode(model.encode(X_BD))


def test_without_a_skip_the_input_changes_nothing() -> None:
    model = sae()
    codes = model.encode(X_BD)
    assert torch.equal(model.decode(codes), model.decode(codes, X_BD))


@pytest.mark.parametrize("parts", [{}, {"encoder_pre": nn.Identity()}, {"encoder": nn.Identity(), "nonlinearity": nn.ReLU()}])
def test_encoder_is_given_once(parts: dict[str, nn.Module]) -> None:
    with pytest.raises(SaeError, match="either `encoder`, or both"):
        SAE(decoder=nn.Identity(), **parts)  # type: ignore[arg-type]


def test_step_records_codes_figures_projection_and_pre_activations() -> None:
    cache = Cache()
    sae()(X_BD, cache=cache)
    assert {"codes", "l0", "l1", "sparsity_penalty", "encoder/preacts/preacts", "encoder/encoder_pre/projection"} <= set(
        cache.values()
    )


def test_pre_activations_are_recorded_for_an_encoder_of_ones_own_too() -> None:
    init, cache = Initializer(4, 8), Cache()
    encoder = Seq(lin=init.encoder, mine=PreActMetrics(), relu=nn.ReLU())
    SAE(encoder=encoder, decoder=init.decoder)(X_BD, cache=cache)
    assert "encoder/mine/preacts" in cache.values()
