"""Kinds of parameter. What a parameter *is* decides how it is resampled, normalised, folded and exported.

A new architecture declares its parameters by making them of these classes (the `Initializer` does so for the usual
ones) and gets all of that without further code. Shapes: F latents (d_sae), D dimensions of the activations.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class SAEParameter(nn.Parameter):
    """A parameter whose kind the framework knows.

    Attributes:
        data_power: how the parameter changes when the activations are multiplied by s: it must be multiplied by
            s**data_power for the same codes to come out. Folding a normalisation into saved weights uses it.
    """

    data_power: ClassVar[int] = 0

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> SAEParameter:
        return super().__new__(cls, data, requires_grad)


class FeatureParameter(SAEParameter):
    """A parameter with one row for each latent, along axis 0."""


class EncoderRows(FeatureParameter):
    """[F, D]: the directions that latents are read off."""

    data_power = -1


class DecoderRows(FeatureParameter):
    """[F, D]: the directions that latents write, also called the dictionary."""

    data_power = 1


class LatentBias(FeatureParameter):
    """[F]: added to the pre-activation of each latent."""


class LatentScale(FeatureParameter):
    """[F]: a rescaling of each latent, such as the Gated SAE's r_mag."""


class DataBias(SAEParameter):
    """[D]: an offset in the space of the activations, such as the decoder's bias."""

    data_power = 1
