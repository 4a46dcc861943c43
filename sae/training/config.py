"""The `train` section of params.yaml: the configs of the training's parts, put together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sae.config import SweepableConfig
from sae.training.auxk import AuxKConfig
from sae.training.early_stopping import EarlyStoppingConfig
from sae.training.l0_targeting import L0TargetingConfig
from sae.training.normalize import Normalize
from sae.training.optimizers import OptimizerConfig
from sae.training.resampling import ResampleConfig
from sae.training.schedule import ScheduleConfig


class TrainConfig(SweepableConfig):
    """A training run."""

    steps: int = Field(default=2000, gt=0, description="Steps of the optimizer; a batch each.")
    batch_size: int = Field(default=1024, ge=2, description="Tokens in a batch.")
    lr: float = Field(default=1.0e-3, gt=0, description="Learning rate on the plateau of the schedule.")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    l0_target: float | None = Field(default=16, gt=0, description="Mean number of active latents of a token to come to.")
    l0_targeting: L0TargetingConfig = L0TargetingConfig()
    coefficients: dict[str, float] = Field(default={}, description="Weights of the losses; 1 unless given or steered.")
    dead_latents: Literal["none", "resample", "auxk", "both"] = Field(
        default="none", description="What is done for latents that have gone silent."
    )
    dead_window: int = Field(default=250_000, gt=0, description="Tokens of silence after which a latent counts as dead.")
    resample: ResampleConfig = ResampleConfig()
    auxk: AuxKConfig = AuxKConfig()
    normalize: Normalize = Field(
        default="sqrt_d", description="Scale to a mean norm of √d_in, or standardise each dimension, or each token."
    )
    center: Literal["geometric_median", "mean", "none"] = Field(
        default="geometric_median", description="Where the decoder's bias starts."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the forward pass; weights stay in float32."
    )
    clip_grad_norm: float | None = Field(default=None, gt=0, description="Largest norm of the gradient of all parameters.")
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Decay of averaged weights, which then are what is saved."
    )
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    start_from: str | None = Field(
        default=None, description="A saved SAE to fine-tune, with the normalisation that it had; or the state of a run to extend."
    )
    keep_state: bool = Field(default=False, description="Keep the run's state beside its curves, to extend the run later.")
    seed: int = Field(default=0, ge=0, description="Decides the initial weights and the order of the batches.")
    log_every: int = Field(default=25, gt=0, description="Steps between two points of the training curves.")
    held_out_rows: int = Field(default=8192, ge=0, description="Held-out activations that each point is measured on; 0: none.")
    checkpoint_every: int = Field(default=500, gt=0, description="Steps between two checkpoints.")
