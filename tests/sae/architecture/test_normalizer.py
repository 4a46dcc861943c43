"""The normaliser's two kinds, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.architecture.normalizer import LAYER_NORM_EPS, Normalizer
from sae.config import SaeError

WIDTHS = [3, 5]
X_BD = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 30, 8) + 7


def affine() -> Normalizer:
    normalizer = Normalizer("affine", WIDTHS, [4])
    stream = torch.Generator().manual_seed(1)
    for name, buffer in normalizer.named_buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=stream) + (0.5 if name.startswith("scale") else 0))
    return normalizer


def layer_norm(x_BD: Tensor) -> np.ndarray:
    """Each token less its mean, over its standard deviation, hook point by hook point."""
    parts = np.split(x_BD.double().numpy(), np.cumsum(WIDTHS)[:-1], axis=1)
    return np.concatenate([(p - p.mean(1, keepdims=True)) / np.sqrt(p.var(1, keepdims=True) + LAYER_NORM_EPS) for p in parts], 1)


def test_affine_shifts_and_scales_inputs_and_targets_each_by_their_own() -> None:
    n, y_BE = affine(), torch.randn(20, 4)
    np.testing.assert_allclose(n.normalize(X_BD).numpy(), (X_BD.numpy() - n.shift_D.numpy()) * n.scale_D.numpy(), rtol=1e-6)
    expected = (y_BE.numpy() - n.shift_E.numpy()) * n.scale_E.numpy()
    np.testing.assert_allclose(n.normalize_target(y_BE, X_BD).numpy(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(n.restore(n.normalize_target(y_BE, X_BD)), y_BE)


def test_layer_norm_treats_every_token_and_hook_point_by_itself() -> None:
    n = Normalizer("layer_norm", WIDTHS)
    np.testing.assert_allclose(n.normalize(X_BD.double()).numpy(), layer_norm(X_BD), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(n.normalize_target(X_BD, X_BD), n.normalize(X_BD))
    torch.testing.assert_close(n.restore(n.normalize(X_BD), X_BD), X_BD, rtol=1e-5, atol=1e-4)


def test_leading_dimensions_do_not_matter() -> None:
    for n in (affine(), Normalizer("layer_norm", WIDTHS)):
        assert torch.equal(n.normalize(X_BD.view(4, 5, 8)), n.normalize(X_BD).view(4, 5, 8))


def test_layer_norm_needs_the_input_to_restore() -> None:
    with pytest.raises(SaeError, match=r"decode\(codes, x\)"):
        Normalizer("layer_norm", WIDTHS).restore(X_BD)


def test_only_an_affine_kind_that_does_nothing_is_the_identity() -> None:
    assert Normalizer("affine", WIDTHS).is_identity
    assert not Normalizer("layer_norm", WIDTHS).is_identity
    for name in ("shift_D", "scale_D", "shift_E", "scale_E"):
        n = Normalizer("affine", WIDTHS, [4])
        getattr(n, name)[1] += 0.5
        assert not n.is_identity
