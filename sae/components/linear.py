"""The linear maps of an SAE. Encoder and decoder keep one row per latent, so that a latent is one stretch of memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.codes import Codes, as_codes
from sae.components.parameters import (
    DataBias,
    DecoderRows,
    EncoderRows,
    InputScale,
    LatentBias,
    OutputScale,
    SkipMatrix,
    TiedRows,
)
from sae.core import Cache, Module


class EncoderLinear(Module):
    """x [B, D] → x @ weight.T + bias [B, F], recorded as `projection`.

    Args:
        weight_FD: the rows; `TiedRows` are used as they are, and shared with the decoder.
        bias_F: None for no bias.
    """

    def __init__(self, weight_FD: Tensor, bias_F: Tensor | None) -> None:
        super().__init__()
        self.weight = weight_FD if isinstance(weight_FD, TiedRows) else EncoderRows(weight_FD)
        self.bias: LatentBias | None = None if bias_F is None else LatentBias(bias_F)
        self.scale = InputScale(torch.ones(weight_FD.shape[1]), requires_grad=False) if isinstance(weight_FD, TiedRows) else None

    def forward(self, x_BD: Tensor, *, cache: Cache) -> Tensor:
        return cache.write("projection", self.apply_with(x_BD, self.weight, self.bias))

    def apply_with(self, x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor | None) -> Tensor:
        """The map with other tensors in the place of its parameters."""
        return F.linear(x_BD if self.scale is None else x_BD * self.scale, weight_FD, bias_F)


class DecoderLinear(Module):
    """codes [B, F] → codes @ weight + bias [B, D].

    Args:
        weight_FD: the rows; `TiedRows` are used as they are, and shared with the encoder.
        bias_D: None for no bias.
    """

    def __init__(self, weight_FD: Tensor, bias_D: Tensor | None) -> None:
        super().__init__()
        self.weight = weight_FD if isinstance(weight_FD, TiedRows) else DecoderRows(weight_FD)
        self.bias: DataBias | None = None if bias_D is None else DataBias(bias_D)
        self.scale = OutputScale(torch.ones(weight_FD.shape[1]), requires_grad=False) if isinstance(weight_FD, TiedRows) else None

    def forward(self, codes: Codes | Tensor, *, cache: Cache) -> Tensor:
        return self.apply_with(codes, self.weight, self.bias)

    def apply_with(self, codes: Codes | Tensor, weight_FD: Tensor, bias_D: Tensor | None) -> Tensor:
        """The map with other tensors in the place of its parameters."""
        x_BD = as_codes(codes) @ weight_FD
        if self.scale is not None:
            x_BD = x_BD * self.scale
        return x_BD if bias_D is None else x_BD + bias_D


class DetachedLinear(Module):
    """A view of an encoder or decoder through which no gradient reaches some of its parameters.

    Args:
        source: the linear map to look at; it stays the owner of its parameters.
        weight: whether the weight is cut off.
        bias: whether the bias is cut off; None to leave it out of the computation.
    """

    def __init__(self, source: EncoderLinear | DecoderLinear, *, weight: bool = True, bias: bool | None = True) -> None:
        super().__init__()
        # In a tuple, torch does not see the module: the view owns no parameters.
        self._source = (source,)
        self._weight, self._bias = weight, bias

    def forward(self, x: Codes | Tensor, *, cache: Cache) -> Tensor:
        (source,) = self._source
        weight = source.weight.detach() if self._weight else source.weight
        bias: Tensor | None = None if self._bias is None else source.bias
        if bias is not None and self._bias:
            bias = bias.detach()
        if isinstance(source, EncoderLinear):
            assert isinstance(x, Tensor), "an encoder takes activations, not codes"
            return source.apply_with(x, weight, bias)
        return source.apply_with(x, weight, bias)


class SkipLinear(Module):
    """x [B, d_in] → x @ weight.T [B, d_out], past the latents."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = SkipMatrix(weight)

    def forward(self, x_BD: Tensor, *, cache: Cache) -> Tensor:
        return F.linear(x_BD, self.weight)
