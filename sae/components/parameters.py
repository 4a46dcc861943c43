"""Kinds of parameter. What a parameter *is* decides how it is resampled, normalised, folded and exported.

A new architecture declares its parameters by making them of these classes (the `Initializer` does so for the usual
ones) and gets all of that without further code. Shapes: F latents (d_sae), D dimensions of the activations.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn


class SAEParameter(nn.Parameter):
    """A parameter whose kind the framework knows.

    Args:
        lr_multiplier: factor on the learning rate for this parameter alone.

    Attributes:
        in_power: how the parameter changes when the *inputs* are multiplied by s: it must be multiplied by s**in_power
            for the same codes to come out, and the same reconstruction. Folding a normalisation into weights uses it.
        out_power: the same for a scale of the *targets*, which then also scales the reconstruction.
    """

    in_power: ClassVar[int] = 0
    out_power: ClassVar[int] = 0
    lr_multiplier: float

    def __new__(cls, data: Tensor, requires_grad: bool = True, *, lr_multiplier: float = 1.0) -> Self:
        parameter = super().__new__(cls, data, requires_grad)
        parameter.lr_multiplier = lr_multiplier
        return parameter

    @property
    def data_power(self) -> int:
        """Both powers together: what holds where inputs and targets are the same activations."""
        return self.in_power + self.out_power

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

    in_power = -1


class DecoderRows(FeatureParameter):
    """[F, D]: the directions that latents write, also called the dictionary."""

    out_power = 1


class TiedRows(EncoderRows, DecoderRows):
    """[F, D]: both at once. A scale of the activations goes into `InputScale` and `OutputScale`, which stand beside it."""

    in_power = 0
    out_power = 0


class LatentBias(FeatureParameter):
    """[F]: added to the pre-activation of each latent."""


class LatentScale(FeatureParameter):
    """[F]: a rescaling of each latent, such as the Gated SAE's r_mag."""


class LatentThreshold(FeatureParameter):
    """[F]: what a latent's pre-activation is compared with, or its logarithm.

    Pre-activations do not change with the scale of the activations, so thresholds don't either.
    """


class DataBias(SAEParameter):
    """[D]: an offset in the space of the targets, such as the decoder's bias."""

    out_power = 1


class InputBias(SAEParameter):
    """[D]: an offset in the space of the inputs."""

    in_power = 1


class SkipMatrix(SAEParameter):
    """[d_out, d_in]: a linear map from inputs to targets past the latents."""

    in_power = -1
    out_power = 1


class InputScale(SAEParameter):
    """A number that tied rows' input is multiplied by; 1 but for a folded normalisation, and not trained."""

    in_power = -1


class OutputScale(SAEParameter):
    """A number that tied rows' output is multiplied by; 1 but for a folded normalisation, and not trained."""

    out_power = 1
