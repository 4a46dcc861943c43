"""Activations whose features are known: each row is a sparse, positive sum of unit directions, plus a bias.

It makes learning testable without a language model. Which features fire is drawn from a Gaussian copula of low rank, so
that features are correlated while each keeps its own probability.

Shapes: B rows in a batch, G true features, D dimensions (those of all hook points side by side), R rank of the copula.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sae.config import InputError, SweepableConfig, generator

_SMALLEST_MAGNITUDE = 0.05


class SyntheticConfig(SweepableConfig):
    """What the activations are made of."""

    features: int = Field(default=512, gt=0, description="Number of true features.")
    widths: list[int] = Field(default=[128], min_length=1, description="Dimensions of each hook point of an input.")
    target_widths: list[int] | None = Field(
        default=None, min_length=1, description="The same of a target; none: the target is the input."
    )
    l0: float = Field(default=7.0, gt=0, description="Mean number of features that fire on a row.")
    zipf_exponent: float = Field(default=1.0, ge=0, description="How steeply probabilities fall with rank; 0: all alike.")
    min_probability: float = Field(default=0.01, ge=0, description="Floor under Zipf's law, so that each feature can be learnt.")
    max_probability: float = Field(default=0.5, gt=0, le=1, description="Ceiling over it.")
    correlation_rank: int = Field(default=16, ge=0, description="Rank of the copula; 0: features fire independently.")
    correlation: float = Field(
        default=0.16, ge=0, lt=1, description="Share of a feature's latent variance that comes from the common factors."
    )
    magnitude_std: float = Field(default=0.2, ge=0, description="Of the magnitude of a feature that fires, about a mean of 1.")
    bias_norm: float = Field(default=1.0, ge=0, description="Norm of the constant that is added to each hook point.")
    noise: float = Field(default=0.0, ge=0, description="Standard deviation of Gaussian noise in each dimension.")
    seed: int = Field(default=0, ge=0, description="Decides the world: directions, correlations, bias. Rows have their own seed.")


class Sample(NamedTuple):
    """Rows with their truth: magnitudes [B, G] of the features (0 where one does not fire), inputs and targets [B, D]."""

    magnitude_BG: Tensor
    x_BD: Tensor
    y_BD: Tensor


class SyntheticSource:
    """A source like any other, with its ground truth open.

    Every hook point has its own dictionary; the same features fire, with the same magnitudes, at all of them and in the
    target. So one hook point trains an autoencoder, several a crosscoder, and target widths a transcoder.

    Attributes:
        dictionary_GD: true directions in an input: unit norm within each hook point.
        target_dictionary_GD: the same in a target; the same object where the target is the input.
        bias_D, target_bias_D: the constants that are added.
        probability_G: how often each feature fires, falling with its number.
        loadings_GR: of the features on the common factors.

    Raises:
        InputError: no probabilities within floor and ceiling have the wanted sum.

    Example:
        >>> source = SyntheticSource(SyntheticConfig(features=64, widths=[16], l0=3))
        >>> x_BD, y_BD = next(source.batches(8, seed=0))
        >>> x_BD.shape, x_BD is y_BD
        (torch.Size([8, 16]), True)
    """

    def __init__(self, config: SyntheticConfig | None = None) -> None:
        self.config = config = SyntheticConfig() if config is None else config
        self.probability_G = firing_probabilities(
            config.features, config.l0, config.zipf_exponent, config.min_probability, config.max_probability
        )
        self.loadings_GR = config.correlation**0.5 * _unit_rows(config.features, config.correlation_rank, config.seed, "loadings")
        share = config.correlation if config.correlation_rank else 0.0
        self._own_std = (1 - share) ** 0.5
        self._quantile_G = torch.special.ndtri(self.probability_G.double()).float()
        self.dictionary_GD, self.bias_D = self._side("input", self.widths)
        self.target_dictionary_GD, self.target_bias_D = self.dictionary_GD, self.bias_D
        if config.target_widths is not None:
            self.target_dictionary_GD, self.target_bias_D = self._side("target", self.target_widths)

    @property
    def hook_points(self) -> list[str]:
        return [f"synthetic.{i}" for i in range(len(self.config.widths))]

    @property
    def widths(self) -> list[int]:
        return list(self.config.widths)

    @property
    def target_hook_points(self) -> list[str]:
        return self.hook_points if self.config.target_widths is None else [f"target.{i}" for i in range(len(self.target_widths))]

    @property
    def target_widths(self) -> list[int]:
        return list(self.config.widths if self.config.target_widths is None else self.config.target_widths)

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs and targets [B, D] in float32, endlessly and never the same rows twice."""
        for number in itertools.count(start):
            _, x_BD, y_BD = self.sample(batch_size, seed, f"batch {number}")
            yield x_BD, y_BD

    def sample(self, rows: int, seed: int, *names: str) -> Sample:
        """Rows with their truth, decided by seed and names; `batches` uses the names "batch 0", "batch 1" and so on."""
        config = self.config
        stream = generator(seed, "synthetic", *names)
        common_BR = torch.randn(rows, config.correlation_rank, generator=stream)
        latent_BG = torch.randn(rows, config.features, generator=stream)
        latent_BG.mul_(self._own_std).addmm_(common_BR, self.loadings_GR.T)
        fires_BG = latent_BG < self._quantile_G
        magnitude_BG = torch.randn(rows, config.features, generator=stream)
        magnitude_BG = magnitude_BG.mul_(config.magnitude_std).add_(1).clamp_(min=_SMALLEST_MAGNITUDE).mul_(fires_BG)
        x_BD = self._rows(magnitude_BG, self.dictionary_GD, self.bias_D, stream)
        if self.target_dictionary_GD is self.dictionary_GD:
            return Sample(magnitude_BG, x_BD, x_BD)
        return Sample(magnitude_BG, x_BD, self._rows(magnitude_BG, self.target_dictionary_GD, self.target_bias_D, stream))

    def _rows(self, magnitude_BG: Tensor, dictionary_GD: Tensor, bias_D: Tensor, stream: torch.Generator) -> Tensor:
        x_BD = torch.addmm(bias_D, magnitude_BG, dictionary_GD)
        if self.config.noise:
            x_BD += self.config.noise * torch.randn(x_BD.shape, generator=stream)
        return x_BD

    def _side(self, name: str, widths: list[int]) -> tuple[Tensor, Tensor]:
        """Dictionary [G, D] and bias [D] of the inputs or of the targets."""
        config = self.config
        dictionaries = [_unit_rows(config.features, d, config.seed, name, str(i), "dictionary") for i, d in enumerate(widths)]
        biases = [config.bias_norm * _unit_rows(1, d, config.seed, name, str(i), "bias")[0] for i, d in enumerate(widths)]
        return torch.cat(dictionaries, dim=1), torch.cat(biases)


def firing_probabilities(features: int, l0: float, exponent: float, floor: float, ceiling: float) -> Tensor:
    """Probabilities [G], min(ceiling, floor + c · rank^-exponent), with c such that they sum to `l0`.

    Raises:
        InputError: `l0` is not between features · floor and features · ceiling.
    """
    if not features * floor <= l0 <= features * ceiling:
        raise InputError(
            "features within these probabilities cannot have this sum",
            where="l0",
            found=l0,
            expected=f"from {features * floor:g} to {features * ceiling:g}",
        )
    zipf_G = torch.arange(1, features + 1, dtype=torch.float64) ** -exponent
    low, high = 0.0, ceiling / float(zipf_G[-1])
    for _ in range(200):  # bisection: the sum grows with c
        middle = (low + high) / 2
        too_low = float((floor + middle * zipf_G).clamp(max=ceiling).sum()) < l0
        low, high = (middle, high) if too_low else (low, middle)
    return (floor + high * zipf_G).clamp(max=ceiling).float()


def _unit_rows(rows: int, width: int, seed: int, *names: str) -> Tensor:
    """Random directions [rows, width]."""
    x = torch.randn(rows, width, generator=generator(seed, "synthetic", *names), dtype=torch.float64)
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return unit.float()
