"""Kinds of parameter. What a parameter *is* decides how it is resampled, normalised, folded and exported.

A new architecture declares its parameters by making them of these classes (the `Initializer` does so for the usual
ones) and gets all of that without further code. Shapes: F latents (d_sae), D dimensions of the activations.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn


class SAEParameter(nn.Parameter):
    """A parameter whose kind the framework knows.

    Args:
        lr_multiplier: factor on the learning rate for this parameter alone.
    """

    lr_multiplier: float

    def __new__(cls, data: Tensor, requires_grad: bool = True, *, lr_multiplier: float = 1.0) -> Self:
        parameter = super().__new__(cls, data, requires_grad)
        parameter.lr_multiplier = lr_multiplier
        return parameter

    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        """Take a normalisation into the parameter, in place.

        Before, the model saw inputs (x - shift_D) · scale_D and its output was divided by scale_E and moved by shift_E;
        afterwards it does both itself, but for constants at the latents, which are the folding's own business. Codes
        stay the same. Kinds that neither inputs nor targets touch have nothing to do.
        """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if id(self) not in memo:  # torch's own copy would lose the attributes
            clone = type(self)(self.data.clone(), self.requires_grad)
            clone.__dict__.update(self.__dict__)
            memo[id(self)] = clone
        found: Self = memo[id(self)]
        return found


class FeatureParameter(SAEParameter):
    """A parameter with one row for each latent, along axis 0.

    Args:
        reset_value: what a resampled latent's entry becomes. The rows of encoder and decoder get directions instead.
    """

    reset_value: float

    def __new__(cls, data: Tensor, requires_grad: bool = True, *, lr_multiplier: float = 1.0, reset_value: float = 0.0) -> Self:
        parameter = super().__new__(cls, data, requires_grad, lr_multiplier=lr_multiplier)
        parameter.reset_value = reset_value
        return parameter


class EncoderRows(FeatureParameter):
    """[F, D]: the directions that latents are read off."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.mul_(scale_D)


class DecoderRows(FeatureParameter):
    """[F, D]: the directions that latents write, also called the dictionary."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.div_(scale_E)


class TiedRows(EncoderRows, DecoderRows):
    """[F, D]: both at once. A normalisation goes into `InputScale` and `OutputScale`, which stand beside it."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        """Nothing: the scales beside it change."""


class LatentBias(FeatureParameter):
    """[F]: added to the pre-activation of each latent."""


class LatentScale(FeatureParameter):
    """[F]: a rescaling of each latent, such as the Gated SAE's r_mag."""


class LatentThreshold(FeatureParameter):
    """[F]: what a latent's pre-activation is compared with, or its logarithm."""


class DataBias(SAEParameter):
    """[D]: an offset in the space of the targets, such as the decoder's bias."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.div_(scale_E).add_(shift_E)


class InputBias(SAEParameter):
    """[D]: an offset in the space of the inputs."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.div_(scale_D).add_(shift_D)


class SkipMatrix(SAEParameter):
    """[d_out, d_in]: a linear map from inputs to targets past the latents."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.mul_(scale_D).div_(scale_E[:, None])


class InputScale(SAEParameter):
    """[D]: what tied rows' input is multiplied by; 1 but for a folded normalisation, and not trained."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.mul_(scale_D)


class OutputScale(SAEParameter):
    """[D]: what tied rows' output is multiplied by; 1 but for a folded normalisation, and not trained."""

    @torch.no_grad()
    def fold_(self, shift_D: Tensor, scale_D: Tensor, shift_E: Tensor, scale_E: Tensor) -> None:
        self.div_(scale_E)
