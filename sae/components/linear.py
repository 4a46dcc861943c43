"""The two linear maps of an SAE. Both keep one row per latent, so that a latent is one stretch of memory."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sae.codes import Codes, as_codes
from sae.components.parameters import DataBias, DecoderRows, EncoderRows, LatentBias
from sae.core import Cache, Module


class EncoderLinear(Module):
    """x [B, D] → x @ weight.T + bias [B, F]."""

    def __init__(self, weight_FD: Tensor, bias_F: Tensor | None) -> None:
        super().__init__()
        self.weight = EncoderRows(weight_FD)
        self.bias: LatentBias | None = None if bias_F is None else LatentBias(bias_F)

    def forward(self, x_BD: Tensor, *, cache: Cache) -> Tensor:
        return F.linear(x_BD, self.weight, self.bias)


class DecoderLinear(Module):
    """codes [B, F] → codes @ weight + bias [B, D]."""

    def __init__(self, weight_FD: Tensor, bias_D: Tensor | None) -> None:
        super().__init__()
        self.weight = DecoderRows(weight_FD)
        self.bias: DataBias | None = None if bias_D is None else DataBias(bias_D)

    def forward(self, codes: Codes | Tensor, *, cache: Cache) -> Tensor:
        x_BD = as_codes(codes) @ self.weight
        return x_BD if self.bias is None else x_BD + self.bias


class DetachedLinear(Module):
    """A view of an encoder or decoder through which no gradient reaches its parameters.

    Args:
        source: the linear map to look at; it stays the owner of its parameters.
    """

    def __init__(self, source: EncoderLinear | DecoderLinear) -> None:
        super().__init__()
        # In a tuple, torch does not see the module: the view owns no parameters.
        self._source = (source,)

    def forward(self, x: Codes | Tensor, *, cache: Cache) -> Tensor:
        (source,) = self._source
        bias = None if source.bias is None else source.bias.detach()
        if isinstance(source, EncoderLinear):
            assert isinstance(x, Tensor), "an encoder takes activations, not codes"
            return F.linear(x, source.weight.detach(), bias)
        x_BD = as_codes(x) @ source.weight.detach()
        return x_BD if bias is None else x_BD + bias
