"""The `Initializer` that every architecture finds as ``self.init``: where its parameters come from.

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
from sae.components.parameters import LatentBias, LatentScale
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
        self._wrappers: list[Callable[[nn.Module], nn.Module]] = []
        self._built: tuple[nn.Module, nn.Module] | None = None

    @property
    def bias(self) -> bool:
        return self._bias

    @bias.setter
    def bias(self, value: bool) -> None:
        self._refuse_if_built("set the bias")
        self._bias = value

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

    @property
    def raw(self) -> Any:
        """The map without its wrappers."""
        return self._build()[0]

    @property
    def detached(self) -> DetachedLinear:
        """The map as it is now and will be, with no gradient to its parameters."""
        return DetachedLinear(self.raw)

    def _build(self) -> tuple[nn.Module, nn.Module]:
        if self._built is None:
            raw = wrapped = self._make()
            for wrap in self._wrappers:
                wrapped = wrap(wrapped)
            self._built = (raw, wrapped)
        return self._built

    def _refuse_if_built(self, action: str) -> None:
        if self._built is not None:
            raise SaeError(f"too late to {action}: the {self._name} is built already", expected="this call in setup()")

    @abstractmethod
    def _make(self) -> nn.Module: ...


class EncoderFactory(LinearFactory):
    """Builds the encoder; rows uniform in ±1/√D as in torch's own Linear, biases zero."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__("encoder")
        self.d_in, self.d_sae = d_in, d_sae

    def _make(self) -> nn.Module:
        weight_FD = torch.empty(self.d_sae, self.d_in).uniform_(-1, 1) / math.sqrt(self.d_in)
        return EncoderLinear(weight_FD, torch.zeros(self.d_sae) if self.bias else None)


class DecoderFactory(LinearFactory):
    """Builds the decoder: its rows start as the encoder's at unit norm, its bias as the centre of the data.

    Attributes:
        tied_init: start from the encoder's rows; else from random ones.
    """

    def __init__(self, encoder: EncoderFactory, d_out: int, center_D: Tensor | None) -> None:
        super().__init__("decoder")
        self._encoder, self.d_out, self._center_D = encoder, d_out, center_D
        self.tied_init = encoder.d_in == d_out
        self._sub_bias: ops.Sub | None = None

    def _make(self) -> nn.Module:
        weight_FD = self._encoder.raw.weight.detach().clone() if self.tied_init else torch.randn(self._encoder.d_sae, self.d_out)
        weight_FD /= torch.linalg.vector_norm(weight_FD, dim=-1, keepdim=True)
        center_D = torch.zeros(self.d_out) if self._center_D is None else self._center_D.clone()
        return DecoderLinear(weight_FD, center_D if self.bias else None)

    def sub_bias(self) -> ops.Sub:
        """x - decoder.bias, one shared module: what centres the encoder's input (Bricken et al. 2023, "pre-encoder bias")."""
        if self.raw.bias is None:
            raise SaeError("the decoder has no bias to subtract", expected="init._decoder.bias = True")
        if self._sub_bias is None:  # shared, so that behind ReuseForward it gives each encoder the very same input
            self._sub_bias = ops.Sub(self.raw.bias)
        return self._sub_bias


class Initializer:
    """Makes an architecture's parameters, of the right shape and the declared kind.

    Args:
        d_in: width of the activations that are encoded.
        d_sae: number of latents.
        d_out: width of what is decoded; d_in unless it differs.
        l0_target: mean number of active latents to aim at.
        center_D: where the decoder's bias starts, [d_out].
    """

    def __init__(
        self, d_in: int, d_sae: int, *, d_out: int | None = None, l0_target: float | None = None, center_D: Tensor | None = None
    ) -> None:
        self.d_in, self.d_sae, self.l0_target = d_in, d_sae, l0_target
        self.d_out = d_in if d_out is None else d_out
        self._encoder = EncoderFactory(d_in, d_sae)
        self._decoder = DecoderFactory(self._encoder, self.d_out, center_D)

    @property
    def encoder(self) -> Any:
        """The encoder in its wrappers; one shared object."""
        return self._encoder.get()

    @property
    def decoder(self) -> Any:
        """The decoder in its wrappers; one shared object."""
        return self._decoder.get()

    def dict_bias(self) -> LatentScale:
        """A new parameter [F] of zeros that scales latents."""
        return LatentScale(torch.zeros(self.d_sae))

    def new_encoder_bias(self) -> ops.Add:
        """A module that adds a new bias [F] of zeros to pre-activations."""
        return ops.Add(LatentBias(torch.zeros(self.d_sae)))
