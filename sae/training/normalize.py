"""Fitting what activations are normalised by, and finding their centre, on a sample of the source.

Shapes: N rows of the sample, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sae.architecture import Architecture
from sae.architecture.normalizer import Normalizer
from sae.config import Failure, InputError, derive_seed
from sae.training.source import ActivationSource

SAMPLE_ROWS = 32_768  # as many as Gao et al. 2024 take for the geometric median (their released code)

Normalize = Literal["none", "sqrt_d", "per_dim", "layer_norm"]


def sample(source: ActivationSource, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [N, D] that statistics are taken from; a stream of their own, so that no training batch is lost.

    Raises:
        Failure: an activation is not finite.
    """
    batch = min(4096, SAMPLE_ROWS)
    stream = source.batches(batch, seed=derive_seed(seed, "statistics"))
    pairs = [next(stream) for _ in range(SAMPLE_ROWS // batch)]
    x_ND = torch.cat([x for x, _ in pairs])
    y_ND = x_ND if all(x is y for x, y in pairs) else torch.cat([y for _, y in pairs])
    if not (torch.isfinite(x_ND).all() and torch.isfinite(y_ND).all()):
        raise Failure("the source gives activations that are not finite", where=", ".join(source.hook_points))
    return x_ND, y_ND


def fit_normalizer(kind: Normalize, source: ActivationSource, x_ND: Tensor, y_ND: Tensor) -> Normalizer:
    """The normaliser of a run.

    Args:
        kind: `sqrt_d` scales each hook point to a mean norm of √D; `per_dim` brings each dimension to mean 0 and
            standard deviation 1; `layer_norm` does so with each token.
        source: tells the widths of the hook points.
        x_ND: a sample of inputs.
        y_ND: of targets; the same object where they are the inputs.

    Raises:
        InputError: `layer_norm`, and the target is not the input: its statistics would be unknown to whoever uses the SAE.
        Failure: the activations have no norm, or a dimension never varies.
    """
    same = x_ND is y_ND
    if kind == "layer_norm":
        if not same:
            raise InputError(
                "a target other than the input can't be restored from the input's statistics",
                where="train.normalize",
                found=kind,
                expected="none, sqrt_d or per_dim",
            )
        return Normalizer("layer_norm", source.widths)
    normalizer = Normalizer("affine", source.widths, None if same else source.target_widths)
    normalizer.shift_D, normalizer.scale_D = _affine(kind, x_ND, source.widths, source.hook_points)
    if same:
        normalizer.shift_E, normalizer.scale_E = normalizer.shift_D.clone(), normalizer.scale_D.clone()
    else:
        normalizer.shift_E, normalizer.scale_E = _affine(kind, y_ND, source.target_widths, source.target_hook_points)
    return normalizer


def _affine(kind: Normalize, x_ND: Tensor, widths: Sequence[int], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    d = x_ND.shape[1]
    if kind == "none":
        return torch.zeros(d), torch.ones(d)
    if kind == "per_dim":
        # In float64: a large mean would drown a small deviation.
        wide_ND = x_ND.double()
        deviation_D, mean_D = wide_ND.std(0, unbiased=False), wide_ND.mean(0)
        # A dimension that never varies carries nothing to learn; scaled by its own deviation it would only carry noise.
        floor = 1e-6 * float(deviation_D.max())
        if floor == 0:
            raise Failure("the activations never vary", where=", ".join(names), expected="train.normalize: none")
        return mean_D.float(), deviation_D.clamp_min(floor).reciprocal().float()
    scales = []
    for name, part_ND in zip(names, x_ND.split(list(widths), dim=1), strict=True):
        norm = float(torch.linalg.vector_norm(part_ND, dim=1).mean())
        if norm <= 0:
            raise Failure(
                "the activations have no norm to normalise by", where=name, found=norm, expected="train.normalize: none"
            )
        scales.append(torch.full((part_ND.shape[1],), math.sqrt(part_ND.shape[1]) / norm))
    return torch.zeros(d), torch.cat(scales)


@torch.no_grad()
def center(architecture: Architecture[Any], center_D: Tensor) -> None:
    """Let the decoder's bias, where there is one, start at a centre [D] of the targets."""
    bias = architecture.init._decoder.raw.bias
    if bias is not None:
        bias.copy_(center_D)
