"""The `Initializer` that every architecture finds as ``self.init``: where its parameters come from.

Shapes: F latents (d_sae), D dimensions of the activations (d_in, or d_out for the decoder's side).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.architecture.factories import DecoderFactory, EncoderFactory
from sae.components.linear import SkipLinear
from sae.components.parameters import InputBias, LatentBias, LatentScale, LatentThreshold
from sae.config import InputError
from sae.core import ops


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

    def k(self, architecture: str, least: float = 1) -> float:
        """The mean number of active latents, for an architecture that is built around it.

        Raises:
            InputError: `train.l0_target` is not given, or too small.
        """
        if self.l0_target is None or self.l0_target < least:
            found, message = self.l0_target, f"{architecture} takes its k from here"
            raise InputError(message, where="train.l0_target", found=found, expected=f"{least} or more")
        return self.l0_target

    def dict_bias(self) -> LatentScale:
        """A new parameter [F] of zeros that scales latents."""
        return LatentScale(torch.zeros(self.d_sae))

    def new_encoder_bias(self) -> ops.Add:
        """A module that adds a new bias [F] of zeros to pre-activations."""
        return ops.Add(self.latent_bias())

    def latent_bias(self, value: float = 0.0) -> LatentBias:
        """A new bias [F] of pre-activations; resampled latents go back to `value`."""
        return LatentBias(torch.full((self.d_sae,), value), reset_value=value)

    def latent_threshold(self, value: float, *, lr_multiplier: float = 1.0) -> LatentThreshold:
        """A new threshold [F] on pre-activations; resampled latents go back to `value`."""
        return LatentThreshold(torch.full((self.d_sae,), value), reset_value=value, lr_multiplier=lr_multiplier)

    def data_bias(self) -> InputBias:
        """A new offset [d_in] of zeros in the space of the inputs."""
        return InputBias(torch.zeros(self.d_in))

    def skip(self) -> SkipLinear:
        """A new linear map [d_out, d_in] of zeros from inputs to targets, past the latents."""
        return SkipLinear(torch.zeros(self.d_out, self.d_in))
