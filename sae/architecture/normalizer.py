"""What activations go through before a model sees them, and the way back.

Shapes: B tokens in a batch, D dimensions of an input, E dimensions of a target (D for an autoencoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sae.config import SaeError

LAYER_NORM_EPS = 1e-5  # as in torch's LayerNorm

Kind = Literal["affine", "layer_norm"]


class Normalizer(nn.Module):
    """x̂ = (x - shift) · scale, dimension by dimension; or each token less its mean, over its standard deviation.

    The first kind is the same for every token, so it can be folded into a model's weights. The second (`layer_norm`)
    depends on the token: a model trained behind it needs it as a step, and its reconstruction needs the input to come
    back to the input's units. Where activations of several hook points stand side by side, each has its own statistics.

    Args:
        kind: see above.
        widths: dimensions of each hook point in an input; their sum is D.
        target_widths: the same for targets; None where the targets are the inputs.
    """

    shift_D: Tensor
    scale_D: Tensor
    shift_E: Tensor
    scale_E: Tensor

    def __init__(self, kind: Kind, widths: Sequence[int], target_widths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.kind, self.widths = kind, list(widths)
        self.target_widths = self.widths if target_widths is None else list(target_widths)
        d_in, d_out = sum(self.widths), sum(self.target_widths)
        for name, value, width in (("shift_D", 0, d_in), ("scale_D", 1, d_in), ("shift_E", 0, d_out), ("scale_E", 1, d_out)):
            self.register_buffer(name, torch.full((width,), float(value)))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        unchanged = (self.shift_D == 0).all() and (self.scale_D == 1).all() and (self.shift_E == 0).all()
        return self.kind == "affine" and bool(unchanged and (self.scale_E == 1).all())

    def normalize(self, x: Tensor) -> Tensor:
        """Inputs [..., D] as the model takes them."""
        if self.kind == "affine":
            return (x - self.shift_D) * self.scale_D
        mean, deviation = self._statistics(x)
        return (x - mean) / deviation

    def normalize_target(self, y: Tensor, x: Tensor) -> Tensor:
        """Targets [..., E] as the model is to reconstruct them; `x` are the inputs, in their own units."""
        if self.kind == "affine":
            return (y - self.shift_E) * self.scale_E
        mean, deviation = self._statistics(x)
        return (y - mean) / deviation

    def restore(self, y_hat: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstructions [..., E] in the units of the targets.

        Args:
            y_hat: what the model returned.
            x: the inputs in their own units; only `layer_norm` needs them.

        Raises:
            SaeError: they are needed and missing.
        """
        if self.kind == "affine":
            return y_hat / self.scale_E + self.shift_E
        if x is None:
            raise SaeError("this SAE normalises each token by itself, so decoding needs the input", expected="decode(codes, x)")
        mean, deviation = self._statistics(x)
        return y_hat * deviation + mean

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each token, spread over the dimensions [..., D] that they belong to."""
        parts = [part for part in x.split(self.widths, dim=-1)]
        means = [part.mean(-1, keepdim=True) for part in parts]
        deviations = [(part.var(-1, keepdim=True, unbiased=False) + LAYER_NORM_EPS).sqrt() for part in parts]
        mean = torch.cat([m.expand_as(part) for m, part in zip(means, parts, strict=True)], dim=-1)
        return mean, torch.cat([d.expand_as(part) for d, part in zip(deviations, parts, strict=True)], dim=-1)
