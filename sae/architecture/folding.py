"""Folding an affine normalisation into a model's weights, so that the saved model takes activations as they come.

Shapes: B probe rows, D dimensions of an input, E of a target, F latents.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sae.architecture.architecture import Architecture
from sae.architecture.model import SAE
from sae.architecture.normalizer import Normalizer
from sae.components.linear import EncoderLinear
from sae.components.parameters import DataBias, LatentBias, SAEParameter
from sae.config import seeded_global_rng
from sae.core import Cache

PROBES = 64
TOLERANCE = 1e-6  # relative, in float64: rounding stays far below, a wrong fold far above


@torch.no_grad()
def fold(architecture: Architecture[Any], normalizer: Normalizer) -> Architecture[Any] | None:
    """A copy of the architecture whose model does without the normaliser, or None where no such copy exists.

    With x̂ = (x - m) s on the way in and x = x̂ / s + m on the way out, every parameter changes as its kind says: encoder
    rows by s, decoder rows and biases of the data by 1 / s, the biases by + m besides. What is left is a constant at each
    latent where the encoder's input is not centred by such a bias; it is measured on the encoder's outputs and goes into
    its own bias. The copy is then compared with the original on probe rows, in float64: codes and reconstructions must
    agree.

    Args:
        architecture: as trained.
        normalizer: what it was trained behind.
    """
    if normalizer.kind != "affine":
        return None
    trained = copy.deepcopy(architecture)
    trained.trainable.to("cpu", torch.float64).eval()
    folded = copy.deepcopy(trained)
    wide = copy.deepcopy(normalizer).to("cpu", torch.float64)
    for parameter in folded.core_model.parameters():
        if not isinstance(parameter, SAEParameter):
            return None  # of no declared kind: nobody knows how it changes
        parameter.fold_(wide.shift_D, wide.scale_D, wide.shift_E, wide.scale_E)
    with seeded_global_rng(0, "folding", "probes"):
        # Of very different norms, so that also latents with a high threshold fire on some.
        norm_B1 = torch.logspace(0, 3, PROBES, dtype=torch.float64)[:, None]
        probe_BD = wide.shift_D + norm_B1 * torch.randn(PROBES, len(wide.shift_D), dtype=torch.float64) / wide.scale_D
    _move_constants(trained.core_model, folded.core_model, wide, probe_BD)
    if not _agree(trained.core_model, folded.core_model, wide, probe_BD):
        return None
    folded.trainable.float()
    return folded


def _move_constants(trained: SAE, folded: SAE, wide: Normalizer, probe_BD: Tensor) -> None:
    """Put what each encoder's output is off by, which must not depend on the row, into its bias."""
    before, after = _projections(trained, wide.normalize(probe_BD)), _projections(folded, probe_BD)
    for (module, old_BF), (twin, new_BF) in zip(before, after, strict=True):
        assert type(module) is type(twin)
        offset_F = (old_BF - new_BF).mean(0)
        if offset_F.abs().max() <= TOLERANCE * old_BF.abs().max():
            continue
        if twin.bias is None:
            twin.bias = LatentBias(torch.zeros_like(offset_F))
        twin.bias.add_(offset_F)
    missing_E = (wide.restore(_output(trained, wide.normalize(probe_BD))) - _output(folded, probe_BD)).mean(0)
    bias_E = getattr(folded.decoder, "bias", None)
    if folded.skip is not None and isinstance(bias_E, DataBias):  # what the skipping map made of the shift
        bias_E.add_(missing_E)


def _projections(model: nn.Module, x_BD: Tensor) -> list[tuple[EncoderLinear, Tensor]]:
    """Every encoder's first output in one pass over the model."""
    seen: dict[EncoderLinear, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, output: seen.setdefault(module, output))
        for module in model.modules()
        if isinstance(module, EncoderLinear)
    ]
    try:
        model(x_BD, cache=Cache())
    finally:
        for hook in hooks:
            hook.remove()
    return [(module, seen[module]) for module in model.modules() if module in seen]


def _agree(trained: SAE, folded: SAE, wide: Normalizer, probe_BD: Tensor) -> bool:
    codes_BF, folded_codes_BF = trained.encode(wide.normalize(probe_BD)).dense(), folded.encode(probe_BD).dense()
    x_BE, folded_BE = wide.restore(_output(trained, wide.normalize(probe_BD))), _output(folded, probe_BD)
    pairs = ((codes_BF, folded_codes_BF), (x_BE, folded_BE))
    return all(bool((old - new).abs().max() <= TOLERANCE * (old.abs().max() + 1e-12)) for old, new in pairs)


def _output(model: SAE, x_BD: Tensor) -> Tensor:
    output: Tensor = model(x_BD, cache=Cache())
    return output
