"""The `sae` section of params.yaml: which architecture, how wide, and the chosen architecture's own section."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from sae.architecture import Architecture, import_architecture
from sae.architectures import SHIPPED
from sae.architectures.anthropic import AnthropicConfig
from sae.architectures.batchtopk import BatchTopKConfig
from sae.architectures.crosscoder import CrosscoderConfig
from sae.architectures.gated import GatedConfig
from sae.architectures.jumprelu import JumpReLUConfig
from sae.architectures.matryoshka import MatryoshkaConfig
from sae.architectures.p_anneal import PAnnealConfig
from sae.architectures.prolu import ProLUConfig
from sae.architectures.topk import TopKConfig
from sae.architectures.transcoder import TranscoderConfig
from sae.architectures.vanilla import VanillaConfig
from sae.config import InputError, SweepableConfig, nearest_name, parse_config


class SAEConfig(SweepableConfig):
    """Which SAE. Only the section of the chosen architecture is read."""

    architecture: str = Field(default="topk", description="A shipped one by name, or your own as `package.module:Class`.")
    hook_points: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Which of the captured hook points are the input, side by side; `*` as there. The first if left out.",
    )
    target_hook_points: list[str] | None = Field(
        default=None, min_length=1, description="Which are reconstructed, as in a transcoder; the input's if left out."
    )
    expansion: float = Field(default=8, gt=0, description="Latents for each dimension of the activations.")
    d_sae: int | None = Field(default=None, gt=0, description="Number of latents, in place of the expansion.")
    topk: TopKConfig = TopKConfig()
    batchtopk: BatchTopKConfig = BatchTopKConfig()
    matryoshka: MatryoshkaConfig = MatryoshkaConfig()
    jumprelu: JumpReLUConfig = JumpReLUConfig()
    gated: GatedConfig = GatedConfig()
    vanilla: VanillaConfig = VanillaConfig()
    anthropic: AnthropicConfig = AnthropicConfig()
    p_anneal: PAnnealConfig = PAnnealConfig()
    prolu: ProLUConfig = ProLUConfig()
    transcoder: TranscoderConfig = TranscoderConfig()
    skip_transcoder: TranscoderConfig = TranscoderConfig()
    crosscoder: CrosscoderConfig = CrosscoderConfig()
    own: dict[str, Any] = Field(default={}, description="Config of your own class; checked against the class's config.")

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SHIPPED and ":" not in name:
            nearest = nearest_name(name, SHIPPED)
            hint = f"; did you mean {nearest!r}?" if nearest else ""
            raise ValueError(f"no such architecture; one of {', '.join(SHIPPED)}, or package.module:Class{hint}")
        return name

    def width(self, d_in: int) -> int:
        """Number of latents for activations of this width.

        Raises:
            InputError: the expansion makes it 0.
        """
        d_sae = round(self.expansion * d_in) if self.d_sae is None else self.d_sae
        if d_sae < 1:
            raise InputError(
                "this makes an SAE without latents", where="sae.expansion", found=self.expansion, expected=f"over 1/{d_in}"
            )
        return d_sae

    def architecture_class(self) -> type[Architecture[Any]]:
        """The chosen class."""
        return import_architecture(SHIPPED.get(self.architecture, self.architecture), "sae.architecture")

    def architecture_config(self) -> SweepableConfig:
        """The chosen class's config."""
        if self.architecture in SHIPPED:
            config: SweepableConfig = getattr(self, self.architecture)
            return config
        return parse_config(self.architecture_class().config_class, self.own, "sae.own")
