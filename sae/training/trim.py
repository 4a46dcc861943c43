"""The last touch on L0: one common shift of all thresholds, so that the finished model has the L0 that was asked for.

Shapes: B tokens in a batch, F latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae.architecture import SAE
from sae.components import LearntThreshold
from sae.components.parameters import LatentBias, LatentThreshold

ROWS = 32_768  # of the source; at an L0 of 4 the standard error of its mean is then about half a percent
FURTHEST = 0.25  # a model that is further above its target, relative to it, was not steered there: that is not to be hidden
LEAST = 0.5  # below it there is more room: an SAE may have a smaller L0 with no penalty at all, and more latents reconstruct more
TOLERANCE = 1e-3
FURTHEST_SHIFT = 100.0


@torch.no_grad()
def trim(model: SAE, batches: Sequence[Tensor], target: float) -> float:
    """Shift what decides whether a latent is active, alike for all latents, until the mean L0 is the target.

    Steering ends with an error of a few percent, since L0 is noisy and follows the coefficient slowly. Thresholds are
    shifted where the model has some (as logarithms: a JumpReLU's `LatentThreshold`, BatchTopK's `LearntThreshold`), else
    the biases of the pre-activations. The shift is found by bisection, and is as small as that error. A JumpReLU SAE whose
    penalty came down to nothing while L0 was still below the target gets there in this way alone (from 38 to 64, its FVU
    fell from 0.016 to 0.002: benchmarks/l0_targeting.md).

    Args:
        model: in inference form; its thresholds or biases change.
        batches: inputs [B, D] as the model takes them.
        target: mean number of active latents.

    Returns:
        The shift; 0 where the model has nothing to shift, L0 is not between a half and five quarters of the target,
        or no shift brings it there.
    """
    thresholds: list[Tensor] = [p for p in model.parameters() if isinstance(p, LatentThreshold)]
    thresholds += [module.log_factor for module in model.modules() if isinstance(module, LearntThreshold)]
    biases: list[Tensor] = [p for p in model.parameters() if isinstance(p, LatentBias)]
    moved, sign = (thresholds, -1.0) if thresholds else (biases, 1.0)
    if not moved:
        return 0.0
    start = _l0(model, batches)
    if not LEAST * target <= start <= (1 + FURTHEST) * target or _near(start, target):
        return 0.0
    kept = [p.detach().clone() for p in moved]

    def shifted(shift: float) -> float:
        for parameter, value in zip(moved, kept, strict=True):
            parameter.copy_(value + sign * shift)
        return _l0(model, batches)

    near, far = 0.0, 1e-3 if start < target else -1e-3  # a greater shift makes more latents active
    while (shifted(far) < target) == (start < target):
        near, far = far, 2 * far
        if abs(far) > FURTHEST_SHIFT:  # no shift does: all that can fire do
            shifted(0.0)
            return 0.0
    middle = far
    for _ in range(30):
        middle = (near + far) / 2
        l0 = shifted(middle)
        if _near(l0, target):
            break
        near, far = (middle, far) if (l0 < target) == (start < target) else (near, middle)
    return middle


def _l0(model: SAE, batches: Sequence[Tensor]) -> float:
    return sum(float(model.encode(x_BD).l0()) * len(x_BD) for x_BD in batches) / sum(len(x_BD) for x_BD in batches)


def _near(l0: float, target: float) -> bool:
    return abs(l0 - target) <= TOLERANCE * target
