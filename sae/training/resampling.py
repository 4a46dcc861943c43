"""Resampling: latents that have gone silent begin anew, on inputs that the model reconstructs badly.

Shapes: N inputs of the pool, D dimensions of an input, E of a target (D for an autoencoder), F latents, M of them dead.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sae.architecture import Architecture
from sae.architecture.normalizer import Normalizer
from sae.components.frequency import EMAFreqTracker
from sae.components.parameters import DataBias, DecoderRows, EncoderRows, FeatureParameter
from sae.config import Failure, InputError, SweepableConfig, derive_seed, generator
from sae.core import Cache
from sae.training.optimizers import reset_rows
from sae.training.schedule import StepsOrFraction
from sae.training.source import ActivationSource

Direction = Literal["input", "error", "model_in"]


class ResampleConfig(SweepableConfig):
    """When silent latents begin anew, and as what."""

    every: StepsOrFraction = Field(default=0.1, description="Distance between two resamplings.")
    delay: StepsOrFraction = Field(default=0, description="No resampling before this.")
    finish: StepsOrFraction = Field(default=0.3, description="Length at the end of the run without resampling.")
    pool: int = Field(default=16_384, gt=0, description="Inputs that new directions are drawn from, in tokens.")
    decoder_direction: Direction = Field(
        default="input", description="`input` less the decoder's bias, the model's `error` on it, or `model_in` as it is."
    )
    encoder_direction: Direction = Field(default="input", description="The same for the encoder's row.")
    encoder_scale: float = Field(default=0.2, gt=0, description="Norm of a new encoder row, in mean norms of the alive ones.")
    reset_optimizer: bool = Field(default=True, description="Forget the optimizer's moments of the new rows.")


class Resampler:
    """Gives dead latents new rows, at the steps that the schedule says.

    Anthropic's recipe (Bricken et al. 2023, Towards Monosemanticity, "Neuron Resampling"): the loss of every input of a
    pool is taken; for each dead latent an input is drawn with probability in proportion to the square of its loss; the
    decoder's row becomes its direction at unit norm, the encoder's row the same at 0.2 times the mean norm of the alive
    encoder rows, the encoder's bias 0; and the optimizer forgets what it knew of these rows.

    The pool is drawn from the source by a seed of its own, so that no training batch is lost. Which parameters a latent
    has is known from their kinds, so this works for any architecture.

    Args:
        architecture: its model's latents are resampled.
        source: where the pool comes from.
        normalizer: what inputs go through.
        config: of the resampling.
        batch_size: rows in one forward pass.
        seed: of the run.
        window: tokens of silence after which a latent is dead.

    Raises:
        InputError: the model tracks no frequencies, or has no encoder or decoder rows.
    """

    def __init__(
        self,
        architecture: Architecture[Any],
        source: ActivationSource,
        normalizer: Normalizer,
        config: ResampleConfig,
        *,
        batch_size: int,
        seed: int,
        window: int,
    ) -> None:
        self.config, self.source, self.normalizer = config, source, normalizer
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self.model, self.trainable = architecture.trainable.model, architecture.trainable
        self.tracker = need_tracker(self.model)
        decoder_bias = getattr(architecture.init._decoder.raw, "bias", None)
        self.center_E: DataBias | None = decoder_bias if isinstance(decoder_bias, DataBias) else None
        self.is_autoencoder = source.hook_points == source.target_hook_points
        for kind in (EncoderRows, DecoderRows):
            if not any(isinstance(p, kind) for p in self.model.parameters()):
                raise InputError(f"this model has no {kind.__name__} to resample", where="train.dead_latents")

    @torch.no_grad()
    def resample(self, step: int, optimizer: torch.optim.Optimizer) -> Tensor:
        """Resample what is dead after `step` steps.

        Returns:
            A mask [F] of the latents that began anew; where the pool is smaller than their number, the first of them.
        """
        dead_F = self.tracker.dead(self.window)
        if not dead_F.any():
            return dead_F
        x_ND, y_NE = self._pool(step)
        reconstruction_NE, loss_N = self._losses(x_ND, y_NE)
        chosen_M = self._draw(loss_N, int(dead_F.sum()), step)
        renewed_F = dead_F & (dead_F.cumsum(0) <= len(chosen_M))
        # A transcoder's decoder bias lies in the space of its targets: there the inputs' own mean is what to subtract.
        input_center_D = self.center_E if self.is_autoencoder else x_ND.mean(0)
        x_MD, y_ME = x_ND[chosen_M], y_NE[chosen_M]
        error_ME = y_ME - reconstruction_NE[chosen_M]
        decoder_ME = self._direction(self.config.decoder_direction, y_ME, self.center_E, error_ME)
        encoder_MD = self._direction(self.config.encoder_direction, x_MD, input_center_D, error_ME)
        for parameter in self.model.parameters():
            if isinstance(parameter, DecoderRows):  # tied rows too: they have a decoder's norm
                parameter[renewed_F] = _unit(decoder_ME).to(parameter.dtype)
            elif isinstance(parameter, EncoderRows):
                alive_norms = torch.linalg.vector_norm(parameter[~dead_F], dim=1)
                scale = self.config.encoder_scale * (alive_norms.mean() if len(alive_norms) else 1.0)
                parameter[renewed_F] = (scale * _unit(encoder_MD)).to(parameter.dtype)
            elif isinstance(parameter, FeatureParameter):
                parameter[renewed_F] = parameter.reset_value
            if isinstance(parameter, FeatureParameter) and self.config.reset_optimizer:
                reset_rows(optimizer, parameter, renewed_F)
        for module in self.trainable.modules():
            if isinstance(module, EMAFreqTracker):
                module.forget(renewed_F)
        return renewed_F

    def _pool(self, step: int) -> tuple[Tensor, Tensor]:
        seed = derive_seed(self.seed, "resampling", f"pool of step {step}")
        stream = self.source.batches(self.batch_size, seed=seed)
        pairs = []
        for _ in range(-(-self.config.pool // self.batch_size)):
            x_BD, y_BD = (t.to(self.tracker.frequency.device) for t in next(stream))
            pairs.append((self.normalizer.normalize(x_BD), self.normalizer.normalize_target(y_BD, x_BD)))
        return torch.cat([x for x, _ in pairs])[: self.config.pool], torch.cat([y for _, y in pairs])[: self.config.pool]

    def _losses(self, x_ND: Tensor, y_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions [N, E] and squared errors [N]; in inference form, so that no tracker counts the pool."""
        self.model.eval()
        reconstruction_NE = torch.cat([self.model(x_BD, cache=Cache()) for x_BD in x_ND.split(self.batch_size)]).float()
        self.model.train()
        loss_N = (y_NE - reconstruction_NE).square().sum(1)
        if not torch.isfinite(loss_N).all():
            raise Failure("the loss on the resampling's pool is not finite", expected="a lower train.lr")
        return reconstruction_NE, loss_N

    def _draw(self, loss_N: Tensor, count: int, step: int) -> Tensor:
        """Indices of inputs, drawn without replacement with probability in proportion to loss²."""
        weights_N = loss_N.double().cpu().square()
        drawable = int((weights_N > 0).sum())
        if drawable == 0:  # a perfect model: any input will do
            weights_N, drawable = torch.ones_like(weights_N), len(weights_N)
        stream = generator(self.seed, "resampling", f"draw of step {step}")
        return torch.multinomial(weights_N, min(count, drawable), generator=stream).to(loss_N.device)

    @staticmethod
    def _direction(kind: Direction, taken: Tensor, center: Tensor | None, error_ME: Tensor) -> Tensor:
        if kind == "error":
            if error_ME.shape != taken.shape:
                raise InputError(
                    "the error has the width of the target, the encoder's rows that of the input",
                    where="train.resample.encoder_direction",
                    found=kind,
                    expected="input or model_in",
                )
            return error_ME
        return taken - center if kind == "input" and center is not None else taken


def find_tracker(model: nn.Module) -> EMAFreqTracker | None:
    """The tracker that says which latents of a model are dead; None if it has none."""
    return next((module for module in model.modules() if isinstance(module, EMAFreqTracker)), None)


def need_tracker(model: nn.Module) -> EMAFreqTracker:
    """The same where there must be one.

    Raises:
        InputError: there is none.
    """
    tracker = find_tracker(model)
    if tracker is not None:
        return tracker
    raise InputError(
        "this model tracks no frequencies, so nothing tells which of its latents are dead",
        where="train.dead_latents",
        expected="SAE(freqs=EMAFreqTracker()), or train.dead_latents: none",
    )


def _unit(direction_MD: Tensor) -> Tensor:
    norm_M1 = torch.linalg.vector_norm(direction_MD, dim=1, keepdim=True)
    unit_MD: Tensor = direction_MD / norm_M1.where(norm_M1 > 0, 1)
    return unit_MD
