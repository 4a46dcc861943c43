"""Every architecture there is, small, with a source of activations that are far from normal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.architecture import SAE, Architecture, import_architecture, loss_prop, model_prop
from sae.architectures import SHIPPED
from sae.components import L2Loss, SparsityPenaltyLoss
from sae.config import SweepableConfig, parse_config
from sae.core import Cache, Module, Seq
from tests.sae.architecture import test_seed_examples as seed

D_SAE = 24


class Tied(Architecture[SweepableConfig]):
    """Encoder and decoder are one matrix."""

    bias = True

    def setup(self) -> None:
        self.init._encoder.bias = self.bias
        self.init._decoder.tie_weights()

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(pre_bias=self.init._decoder.sub_bias(), lin=self.init.encoder),
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.model)


class TiedWithoutBias(Tied):
    bias = False


class Stretch(Module):
    """x times a parameter that nobody declared the kind of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.linspace(0.5, 2, width))

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        return x * self.amount


class Undeclared(Architecture[SweepableConfig]):
    @model_prop
    def model(self) -> SAE:
        encoder = Seq(stretch=Stretch(self.d_in), lin=self.init.encoder)
        return SAE(encoder_pre=encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


@dataclass(frozen=True)
class Case:
    """An architecture with its config, and the widths that it is tried on."""

    name: str
    cls: type[Architecture[Any]]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def widths(self) -> list[int]:
        return [7, 5] if "crosscoder" in self.name else [12]

    @property
    def target_widths(self) -> list[int] | None:
        return [9] if "transcoder" in self.name else None

    def build(self, seed: int = 0, d_sae: int = D_SAE) -> Architecture[Any]:
        return self.cls(
            parse_config(self.cls.config_class, self.config),
            d_in=sum(self.widths),
            d_sae=d_sae,
            d_out=sum(self.target_widths or self.widths),
            widths=self.widths,
            target_widths=self.target_widths,
            l0_target=3.0,
            seed=seed,
        )

    def source(self) -> RawSource:
        return RawSource(self.widths, self.target_widths)

    def __str__(self) -> str:
        return self.name


def _case(name: str, **config: Any) -> Case:
    return Case(
        name + "".join(f"-{key}-{value}" for key, value in config.items()), import_architecture(SHIPPED[name], ""), config
    )


CASES = [
    *(_case(name) for name in SHIPPED),
    *(_case(name, pre_bias=True) for name in ("topk", "batchtopk", "jumprelu", "gated", "vanilla", "prolu")),
    _case("jumprelu", penalty="quadratic"),
    _case("prolu", gradient="relu"),
    _case("transcoder", nonlinearity="relu"),
    _case("crosscoder", nonlinearity="batchtopk"),
    Case("seed-vanilla", seed.VanillaSAE, {"pre_bias": True}),
    Case("seed-gated", seed.Gated, {"pre_bias": True}),
    Case("seed-gated-attached", seed.Gated, {"pre_bias": True, "detach": False}),
    Case("tied", Tied),
    Case("tied-without-bias", TiedWithoutBias),
]
UNDECLARED = Case("undeclared", Undeclared)


class RawSource:
    """Synthetic activations, stretched and shifted differently in each dimension, and other targets otherwise."""

    def __init__(self, widths: list[int], target_widths: list[int] | None = None) -> None:
        config = {"features": 20, "l0": 2.5, "correlation_rank": 2, "widths": widths, "target_widths": target_widths}
        self.inner = SyntheticSource(parse_config(SyntheticConfig, config))
        self.hook_points, self.target_hook_points = self.inner.hook_points, self.inner.target_hook_points
        self.widths, self.target_widths = self.inner.widths, self.inner.target_widths
        self.served: list[tuple[int, int]] = []
        stream = torch.Generator().manual_seed(5)
        self.by_D = 3 * torch.rand(sum(widths), generator=stream) + 0.2
        self.off_D = torch.randn(sum(widths), generator=stream)
        self.by_E = 0.3 * torch.rand(sum(self.target_widths), generator=stream) + 0.02
        self.off_E = 0.3 * torch.randn(sum(self.target_widths), generator=stream)

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (x_BD, y_BE) in enumerate(self.inner.batches(batch_size, seed=seed, start=start), start):
            self.served.append((seed, number))
            raw_BD = x_BD * self.by_D + self.off_D
            yield raw_BD, raw_BD if y_BE is x_BD else y_BE * self.by_E + self.off_E

    def rows(self, count: int = 64, seed: int = 99) -> tuple[Tensor, Tensor]:
        """Inputs and targets that nothing trains on."""
        return next(islice(self.batches(count, seed=seed), 1))
