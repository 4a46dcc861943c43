"""The training loop.

Shapes: B tokens in a batch, D dimensions of the activations, F latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.architecture import Architecture
from sae.components import EMAFreqTracker, training_hooks
from sae.config import Failure, SweepableConfig, seeded_global_rng
from sae.core import Cache
from sae.training.l0_targeting import L0Controller, L0TargetingConfig
from sae.training.schedule import Schedule, ScheduleConfig
from sae.training.source import ActivationSource
from sae.training.state import TrainState

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(SweepableConfig):
    """A training run."""

    steps: int = Field(default=2000, gt=0, description="Steps of the optimizer; a batch each.")
    batch_size: int = Field(default=1024, ge=2, description="Tokens in a batch.")
    lr: float = Field(default=1.0e-3, gt=0, description="Learning rate of Adam on the plateau of the schedule.")
    betas: tuple[DecayRate, DecayRate] = Field(default=(0.9, 0.999), description="Adam's decay rates.")
    l0_target: float | None = Field(default=16, gt=0, description="Mean number of active latents of a token to come to.")
    coefficients: dict[str, float] = Field(default={}, description="Weights of the losses; 1 unless given or steered.")
    l0_targeting: L0TargetingConfig = L0TargetingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    normalize: Literal["none", "sqrt_d"] = Field(default="sqrt_d", description="Scale activations to a mean norm of √d_in.")
    dead_window: int = Field(default=250_000, gt=0, description="Tokens of silence after which a latent counts as dead.")
    seed: int = Field(default=0, ge=0, description="Decides the initial weights and the order of the batches.")
    log_every: int = Field(default=25, gt=0, description="Steps between two points of the training curves.")
    checkpoint_every: int = Field(default=500, gt=0, description="Steps between two checkpoints.")


LogCurve = Callable[[int, Mapping[str, float]], None]


class Trainer:
    """Trains an architecture on a source of activations.

    Args:
        architecture: what to train; its weights change.
        source: where batches come from.
        config: the run.
        device: where to train.
        checkpoint: folder that the run's state is saved in and goes on from; None for none.
        log: called as ``log(step, figures)`` every `log_every` steps.
        progress: called after every step.

    Attributes:
        input_scale: what activations are multiplied by before the model sees them.
    """

    def __init__(
        self,
        architecture: Architecture[Any],
        source: ActivationSource,
        config: TrainConfig,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        log: LogCurve = lambda step, figures: None,
        progress: Callable[[int], None] = lambda steps: None,
    ) -> None:
        self.source, self.config, self.device = source, config, device
        self.checkpoint, self.log, self.progress = checkpoint, log, progress
        self.trainable = architecture.trainable.to(device)
        self.trainable.check_coefficients(config.coefficients, "train.coefficients")
        self.input_scale = input_scale(source, config)
        self.schedule = Schedule(config.schedule, config.steps)
        optimizer = torch.optim.Adam(self.trainable.parameters(), lr=config.lr, betas=config.betas, fused=True)
        targeting = config.l0_targeting
        if "coefficient" in targeting.model_fields_set:  # its default may be missing: TopK has nothing to steer
            self.trainable.check_coefficients([targeting.coefficient], "train.l0_targeting.coefficient")
        self.steered = targeting.coefficient if targeting.coefficient in self.trainable.losses else None
        target = config.l0_target if self.steered else None
        controller = L0Controller(targeting, target, config.coefficients.get(targeting.coefficient), self.schedule)
        self.state = TrainState(self.trainable, optimizer, controller)

    def train(self) -> dict[str, float]:
        """Run to the end, from the checkpoint if there is one. Returns the figures of the last steps.

        Raises:
            Failure: the loss or a weight is not finite; the last checkpoint is kept.
        """
        state, config = self.state, self.config
        if self.checkpoint is not None and state.restore(self.checkpoint):
            self.progress(state.step)
            for step, figures in state.history:
                self.log(step, figures)
        else:
            for hooks in training_hooks(self.trainable):
                hooks.post_step(None)
        self.trainable.train()
        for x_BD in self.source.batches(config.batch_size, seed=config.seed, start=state.step):
            if state.step == config.steps:
                break
            cache = Cache(state.step)
            x_BD = x_BD.to(self.device) * self.input_scale
            for group in state.optimizer.param_groups:
                group["lr"] = config.lr * self.schedule.factor(state.step)

            with seeded_global_rng(config.seed, "training", f"step {state.step}"):  # for dropout and noise
                loss = self.trainable.loss(x_BD, x_BD, self.coefficients(), cache)
            loss.backward()
            for hooks in training_hooks(self.trainable):
                hooks.post_backward(cache)
            state.optimizer.step()
            state.optimizer.zero_grad()
            for hooks in training_hooks(self.trainable):
                hooks.post_step(cache)

            state.controller.update(float(cache["model"].read("l0")), state.step)  # a host sync each step
            state.step += 1
            logging = state.step % config.log_every == 0 or state.step == config.steps
            saving = self.checkpoint is not None and state.step % config.checkpoint_every == 0
            if logging or saving:
                self.check_finite(loss)
            if logging:
                state.history.append((state.step, self.figures(x_BD, loss, cache)))
                self.log(*state.history[-1])
            if self.checkpoint is not None and saving:
                state.save(self.checkpoint)
            self.progress(1)
        return state.history[-1][1]

    def coefficients(self) -> dict[str, float]:
        """The weights of the losses now, the steered one included."""
        live = {self.steered: self.state.controller.coefficient} if self.steered else {}
        return self.config.coefficients | live

    @torch.no_grad()
    def check_finite(self, loss: Tensor) -> None:
        """Refuse to go on, to save or to end with a loss or weights that are not finite.

        Raises:
            Failure: naming the step, and the checkpoint before it.
        """
        finite = math.isfinite(loss.item())
        if finite and all(bool(torch.isfinite(p).all()) for p in self.trainable.parameters()):
            return
        kept = (
            f"; the checkpoint in {self.checkpoint} is kept" if self.checkpoint is not None and self.checkpoint.exists() else ""
        )
        raise Failure(
            f"the {'weights are' if finite else 'loss is'} not finite at step {self.state.step}{kept}",
            found=None if finite else loss.item(),
            expected="a lower train.lr",
        )

    @torch.no_grad()
    def figures(self, x_BD: Tensor, loss: Tensor, cache: Cache) -> dict[str, float]:
        """What the training curves show, from one batch."""
        model = cache["model"]
        residual = x_BD - cache.run_once(self.trainable.model, x_BD)
        figures = {
            "loss": loss.item(),
            "l0": float(model.read("l0")),
            "l1": float(model.read("l1")),
            "fvu": float(residual.square().sum() / (x_BD - x_BD.mean(0)).square().sum()),
            "lr": self.state.optimizer.param_groups[0]["lr"],
        }
        if self.steered:
            figures[self.steered.removesuffix("_loss") + "_coefficient"] = self.state.controller.coefficient
        figures |= {name: float(cache.read(name)) for name in (*self.trainable.losses, *self.trainable.metrics)}
        for module in self.trainable.model.modules():
            if isinstance(module, EMAFreqTracker):
                figures["dead_latents"] = float(module.dead(self.config.dead_window).sum())
        return figures


def input_scale(source: ActivationSource, config: TrainConfig) -> float:
    """What the activations are multiplied by: √d_in over their mean norm, or 1."""
    if config.normalize == "none":
        return 1.0
    norm = source.mean_norm()
    if not math.isfinite(norm) or norm <= 0:
        raise Failure("the activations have no finite mean norm to normalise by", found=norm, expected="train.normalize: none")
    return math.sqrt(source.d_in) / norm
