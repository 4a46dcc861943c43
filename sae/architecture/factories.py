"""The factories of the encoder and the decoder: set up first, built when they are first asked for.

Shapes: F latents (d_sae), D dimensions of the activations (d_in, or d_out for the decoder's side).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sae.components.linear import DecoderLinear, DetachedLinear, EncoderLinear
from sae.components.parameters import TiedRows
from sae.config import SaeError
from sae.core import ops


class LinearFactory(ABC):
    """Builds one shared linear map, when it is first asked for.

    Attributes:
        bias: whether it has a bias; to be set before it is built.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bias = True
        self._bias_value: float | None = None
        self._wrappers: list[Callable[[nn.Module], nn.Module]] = []
        self._built: tuple[nn.Module, nn.Module] | None = None

    @property
    def bias(self) -> bool:
        return self._bias

    @bias.setter
    def bias(self, value: bool) -> None:
        self._refuse_if_built("set the bias")
        self._bias = value

    def const_init_bias(self, value: float = 0.0) -> None:
        """Start every entry of the bias at `value`."""
        self._refuse_if_built("set where the bias starts")
        self._bias_value = value

    def add_wrapper(self, wrapper: Callable[..., nn.Module], *args: Any, **named: Any) -> None:
        """Put a wrapper around the map; later ones go around earlier ones.

        Raises:
            SaeError: the map was built already, so that some part would miss the wrapper.
        """
        self._refuse_if_built(f"add {getattr(wrapper, '__name__', wrapper)}")
        self._wrappers.append(lambda module: wrapper(module, *args, **named))

    def get(self) -> nn.Module:
        """The map in its wrappers; the same object each time."""
        return self._build()[1]

    def new(self) -> nn.Module:
        """A further, independent map of the same shape, with parameters and wrappers of its own."""
        return self._wrap(self._make())

    @property
    def raw(self) -> Any:
        """The map without its wrappers."""
        return self._build()[0]

    @property
    def detached(self) -> DetachedLinear:
        """The map as it is now and will be, with no gradient to its parameters."""
        return DetachedLinear(self.raw)

    @property
    def detached_no_bias(self) -> DetachedLinear:
        """The same without its bias."""
        return DetachedLinear(self.raw, bias=None)

    @property
    def bias_detached(self) -> DetachedLinear:
        """The map with a gradient to its weight but none to its bias."""
        return DetachedLinear(self.raw, weight=False)

    def _build(self) -> tuple[nn.Module, nn.Module]:
        if self._built is None:
            raw = self._make()
            self._built = (raw, self._wrap(raw))
        return self._built

    def _wrap(self, module: nn.Module) -> nn.Module:
        for wrap in self._wrappers:
            module = wrap(module)
        return module

    def _refuse_if_built(self, action: str) -> None:
        if self._built is not None:
            raise SaeError(f"too late to {action}: the {self._name} is built already", expected="this call in setup()")

    @abstractmethod
    def _make(self) -> nn.Module: ...


class EncoderFactory(LinearFactory):
    """Builds the encoder; rows uniform in ±1/√D as in torch's own Linear, biases zero.

    Attributes:
        tied: whether the decoder uses the very same rows.
        row_norm: norm that each row is scaled to at the start; None leaves the rows as they are drawn.
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__("encoder")
        self.d_in, self.d_sae = d_in, d_sae
        self.tied = False
        self.row_norm: float | None = None

    def _make(self) -> nn.Module:
        weight_FD: Tensor = torch.empty(self.d_sae, self.d_in).uniform_(-1, 1) / math.sqrt(self.d_in)
        if self.row_norm is not None:
            weight_FD *= self.row_norm / torch.linalg.vector_norm(weight_FD, dim=-1, keepdim=True)
        if self.tied:  # one parameter is either unit norm or not, and a decoder's rows are
            weight_FD = TiedRows(weight_FD / torch.linalg.vector_norm(weight_FD, dim=-1, keepdim=True))
        return EncoderLinear(weight_FD, torch.full((self.d_sae,), self._bias_value or 0.0) if self.bias else None)


class DecoderFactory(LinearFactory):
    """Builds the decoder: its rows start as the encoder's at unit norm, its bias as the centre of the data.

    Attributes:
        tied_init: start from the encoder's rows; else from random ones.
        row_norm: norm of each row at the start.
    """

    def __init__(self, encoder: EncoderFactory, d_out: int, center_D: Tensor | None) -> None:
        super().__init__("decoder")
        self._encoder, self.d_out, self._center_D = encoder, d_out, center_D
        self.tied_init = encoder.d_in == d_out
        self.row_norm = 1.0
        self._sub_bias: ops.Sub | None = None

    def tie_weights(self) -> None:
        """Let the decoder use the encoder's rows as its own: one parameter, not two that start alike.

        Raises:
            SaeError: inputs and targets differ in width, or one of both maps is built already.
        """
        self._refuse_if_built("tie the weights")
        self._encoder._refuse_if_built("tie the weights")
        if self._encoder.d_in != self.d_out:
            raise SaeError(
                "weights can't be tied: inputs and targets differ in width", found=f"{self._encoder.d_in} and {self.d_out}"
            )
        self._encoder.tied = True

    def _make(self) -> nn.Module:
        encoder, shape = self._encoder, (self._encoder.d_sae, self.d_out)
        weight_FD: Tensor = encoder.raw.weight
        if not encoder.tied:
            weight_FD = weight_FD.detach().clone() if self.tied_init else torch.randn(shape)
            weight_FD *= self.row_norm / torch.linalg.vector_norm(weight_FD, dim=-1, keepdim=True)
        center_D = torch.zeros(self.d_out) if self._center_D is None else self._center_D.clone()
        if self._bias_value is not None:
            center_D.fill_(self._bias_value)
        return DecoderLinear(weight_FD, center_D if self.bias else None)

    def sub_bias(self) -> ops.Sub:
        """x - decoder.bias, one shared module: what centres the encoder's input (Bricken et al. 2023, "pre-encoder bias").

        Raises:
            SaeError: the decoder has no bias.
        """
        if self.raw.bias is None:
            raise SaeError("the decoder has no bias to subtract", expected="init._decoder.bias = True")
        if self._sub_bias is None:  # shared, so that behind ReuseForward it gives each encoder the very same input
            self._sub_bias = ops.Sub(self.raw.bias)
        return self._sub_bias
