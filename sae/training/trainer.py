"""The training loop.

Shapes: B tokens in a batch, D dimensions of an input, E of a target (D for an autoencoder), F latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.architecture import Architecture
from sae.components import LearntThreshold, training_hooks
from sae.components.parameters import FeatureParameter
from sae.config import Failure, InputError, derive_seed, seeded_global_rng
from sae.core import Cache
from sae.statistics import geometric_median
from sae.training.auxk import auxk_loss
from sae.training.averaging import WeightAverage
from sae.training.config import TrainConfig
from sae.training.early_stopping import EarlyStopping
from sae.training.figures import batch_figures, measure
from sae.training.l0_targeting import L0Controller
from sae.training.normalize import center, fit_normalizer, sample
from sae.training.optimizers import build_optimizer, set_lr, training_form
from sae.training.resampling import Resampler, find_tracker, need_tracker
from sae.training.schedule import Schedule, in_steps, resample_steps
from sae.training.source import ActivationSource
from sae.training.starting import is_state, start_from_sae
from sae.training.state import TrainState
from sae.training.trim import ROWS, trim

LogCurve = Callable[[int, Mapping[str, float]], None]


class Stopped(Exception):
    """The run was asked to stop; its state was saved."""


class Trainer:
    """Trains an architecture on a source of activations.

    Args:
        architecture: what to train; its weights change.
        source: where batches come from.
        config: the run.
        device: where to train; the CPU if left out.
        held_out: activations that nothing is trained on, to measure on while training.
        checkpoint: folder that the run's state is saved in and goes on from; None for none.
        log: called as ``log(step, figures)`` every `log_every` steps.
        progress: called after every step.
        stop: asked before every step; when it says so, the state is saved and `Stopped` is raised.

    Attributes:
        state: all that the run needs to go on.
        normalizer: what activations go through before the model sees them.
    """

    def __init__(
        self,
        architecture: Architecture[Any],
        source: ActivationSource,
        config: TrainConfig,
        *,
        device: torch.device | str = "cpu",
        held_out: ActivationSource | None = None,
        checkpoint: Path | None = None,
        log: LogCurve = lambda step, figures: None,
        progress: Callable[[int], None] = lambda steps: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.architecture, self.source, self.held_out = architecture, source, held_out
        self.config, self.device = config, torch.device(device)
        self.checkpoint, self.log, self.progress, self.stop = checkpoint, log, progress, stop
        _check_widths(architecture, source, "source")
        if held_out is not None:
            _check_widths(architecture, held_out, "held-out source")
        self.trainable = architecture.trainable.to(self.device)
        self.model = self.trainable.model
        self.trainable.check_coefficients(config.coefficients, "train.coefficients")

        x_ND, y_NE = sample(source, config.seed)
        self.normalizer = fit_normalizer(config.normalize, source, x_ND, y_NE).to(self.device)
        if config.center != "none":
            targets_NE = self.normalizer.normalize_target(y_NE.to(self.device), x_ND.to(self.device))
            center(architecture, geometric_median(targets_NE) if config.center == "geometric_median" else targets_NE.mean(0))

        resampling = config.dead_latents in ("resample", "both")
        every = max(1, in_steps(config.resample.every, config.steps))
        after = resample_steps(config.steps, every=every, delay=config.resample.delay, finish=config.resample.finish)
        self.schedule = Schedule(config.schedule, config.steps, after if resampling else (), period=every)
        self.tracker = need_tracker(self.model) if config.dead_latents in ("auxk", "both") else None
        self.resampler = self._make_resampler() if resampling else None
        optimizer = build_optimizer(config.optimizer, self.trainable, config.lr, device=self.device, warmup=self.schedule.warmup)
        self.steered = self._steered()
        given = config.coefficients.get(config.l0_targeting.coefficient)
        target = config.l0_target if self.steered else None
        self.state = TrainState(
            self.trainable,
            self.normalizer,
            optimizer,
            L0Controller(config.l0_targeting, target, given, self.schedule),
            torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16"),
            WeightAverage(self.trainable, config.average) if config.average else None,
            EarlyStopping(config.early_stopping),
        )

    def train(self) -> dict[str, float]:
        """Run to the end, from the checkpoint if there is one. Returns the figures of the last steps.

        Raises:
            Failure: the loss or a weight is not finite; the last checkpoint is kept.
            Stopped: `stop` said so; the state is saved.
        """
        state, config, optimizer = self.state, self.config, self.state.optimizer
        self._begin()
        self.trainable.train()
        training_form(optimizer, True)
        for x_BD, y_BE in self.source.batches(config.batch_size, seed=config.seed, start=state.step):
            if state.step >= config.steps or state.stopping.reason:
                break
            self._obey_stop()
            x_BD, y_BE = self._to_model(x_BD, y_BE)
            cache = Cache(state.step, config.steps)
            set_lr(optimizer, config.lr * self.lr_factor(state.step))

            with seeded_global_rng(config.seed, "training", f"step {state.step}"):  # for dropout and noise
                loss = self._loss(x_BD, y_BE, cache)
            state.scaler.scale(loss).backward()
            state.scaler.unscale_(optimizer)  # hooks and clipping are to see gradients as they are
            for hooks in training_hooks(self.trainable):
                hooks.post_backward(cache)
            if config.clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.trainable.parameters(), config.clip_grad_norm)
            state.scaler.step(optimizer)
            state.scaler.update()
            optimizer.zero_grad()
            self._post_step(cache)

            state.controller.update(float(cache["model"].read("l0")), state.step)  # a host sync each step
            if state.average is not None:
                state.average.update(state.step)
            state.step += 1
            last = state.step == config.steps
            logging, saving = (last or state.step % every == 0 for every in (config.log_every, config.checkpoint_every))
            if logging or saving:
                self._check_finite(loss)
            if logging:
                state.history.append((state.step, self._figures(x_BD, y_BE, loss, cache)))
                state.stopping.update(*state.history[-1])
                self.log(*state.history[-1])
            ended = state.stopping.reason is not None
            if self.resampler is not None and state.step in self.schedule.resample_steps and not ended:
                self._resample()
            if self.checkpoint is not None and (saving or ended):
                state.save(self.checkpoint)
            self.progress(1)
        self._finish()
        if self.config.l0_targeting.trim:
            self.trim()
        return state.history[-1][1]

    def coefficients(self) -> dict[str, float]:
        """The weights of the losses now, the steered one included."""
        live = {self.steered: self.state.controller.coefficient} if self.steered else {}
        return self.config.coefficients | live

    def lr_factor(self, step: int) -> float:
        """What the learning rate is multiplied by; `schedule_free` does its warmup itself and wants no cooldown."""
        free = self.config.optimizer.name == "schedule_free"
        return self.schedule.resample_factor(step) if free else self.schedule.factor(step)

    def measure(self, source: ActivationSource, rows: int, *, seed: int = 0) -> dict[str, float]:
        """L0 and FVU of the model in inference form, as it would be saved now.

        Args:
            source: training or held-out activations.
            rows: how many to measure on; whole batches are taken.
            seed: decides which ones.
        """
        with self._in_use():
            return measure(self.model, self._some_batches(source, rows, seed))

    def trim(self) -> float:
        """Bring the finished model's L0 to its target, where it was steered or a threshold was learnt for other weights.

        Done at the end of training unless `l0_targeting.trim` is false. Returns the shift, as `sae.training.trim.trim` does.
        """
        target = self.state.controller.target
        if target is None and self._changes_in_use and any(isinstance(m, LearntThreshold) for m in self.model.modules()):
            target = self.config.l0_target
        if target is None:
            return 0.0
        seed = derive_seed(self.config.seed, "trimming")
        return trim(self.model, [x_BD for x_BD, _ in self._some_batches(self.source, ROWS, seed)], target)

    def _begin(self) -> None:
        """Go on from the checkpoint, or start: from an earlier run's state, from a saved SAE, or afresh."""
        state, start = self.state, self.config.start_from
        if self.checkpoint is not None and state.restore(self.checkpoint):
            self._replay()
        elif start is not None and is_state(Path(start)):
            state.restore(Path(start))
            if state.step >= self.config.steps:
                raise InputError(
                    "the run to be extended is already as long",
                    where="train.steps",
                    found=self.config.steps,
                    expected=f"more than the {state.step} steps of {start}",
                )
            state.stopping.go_on()
            self._replay()
        else:
            if start is not None:
                start_from_sae(self.architecture, Path(start), self.normalizer)
            self._post_step(None)
            if state.average is not None:
                state.average.begin()

    def _replay(self) -> None:
        self.progress(self.state.step)
        for step, figures in self.state.history:
            self.log(step, figures)

    def _obey_stop(self) -> None:
        if not self.stop():
            return
        if self.checkpoint is not None and self.state.step:
            self._check_finite(None)
            self.state.save(self.checkpoint)
        raise Stopped(f"stopped after {self.state.step} steps")

    def _to_model(self, x_BD: Tensor, y_BE: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as the model takes it; still one object where the target is the input."""
        same = y_BE is x_BD
        x_BD = x_BD.to(self.device)
        x_hat_BD = self.normalizer.normalize(x_BD)
        return x_hat_BD, x_hat_BD if same else self.normalizer.normalize_target(y_BE.to(self.device), x_BD)

    def _some_batches(self, source: ActivationSource, rows: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `rows` rows of a source's order, in whole batches, as the model takes them."""
        batches = islice(source.batches(self.config.batch_size, seed=seed), -(-rows // self.config.batch_size))
        return (self._to_model(x_BD, y_BE) for x_BD, y_BE in batches)

    @cached_property
    def _held_out_batches(self) -> list[tuple[Tensor, Tensor]]:
        """What is measured on while training: always the same rows, so they are read once."""
        return [] if self.held_out is None else list(self._some_batches(self.held_out, self.config.held_out_rows, 0))

    def _loss(self, x_BD: Tensor, y_BE: Tensor, cache: Cache) -> Tensor:
        """The weighted sum of all losses, the auxiliary loss for dead latents included."""
        precision = getattr(torch, self.config.precision)
        with torch.autocast(self.device.type, dtype=precision, enabled=precision is not torch.float32):
            loss = self.trainable.loss(x_BD, y_BE, self.coefficients(), cache)
            if self.tracker is None or not (dead_F := self.tracker.dead(self.config.dead_window)).any():
                return loss
            k = self.config.auxk.k or max(1, self.architecture.d_in // 2)
            auxiliary = auxk_loss(self.model, y_BE, cache.run_once(self.model, x_BD), cache["model"], dead_F, k)
            cache.write("auxk_loss", auxiliary.detach())
            return loss + self.config.auxk.coefficient * auxiliary

    def _post_step(self, cache: Cache | None) -> None:
        for hooks in training_hooks(self.trainable):
            hooks.post_step(cache)

    def _make_resampler(self) -> Resampler:
        config = self.config
        more = {"batch_size": config.batch_size, "seed": config.seed, "window": config.dead_window}
        return Resampler(self.architecture, self.source, self.normalizer, config.resample, **more)

    def _resample(self) -> None:
        assert self.resampler is not None
        renewed_F = self.resampler.resample(self.state.step, self.state.optimizer)
        self._post_step(None)
        if self.state.average is not None:
            self.state.average.forget(renewed_F, FeatureParameter)

    def _finish(self) -> None:
        """Bring the weights into the form to be used: averaged if they are, normalised as the architecture wants them."""
        self.trainable.eval()
        if not self._changes_in_use:
            return
        training_form(self.state.optimizer, False)
        if self.state.average is not None:
            self.state.average.take()
        self._post_step(None)

    @property
    def _changes_in_use(self) -> bool:
        """Whether the weights that are saved are others than those that are trained."""
        return self.state.average is not None or self.config.optimizer.name == "schedule_free"

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Inside the block the model is as it would be saved now; afterwards every weight is, bit by bit, as it was."""
        if not self.trainable.training:  # it is already
            yield
            return
        kept = [(p, p.detach().clone()) for p in self.trainable.parameters()] if self._changes_in_use else []
        groups = [dict(group) for group in self.state.optimizer.param_groups]
        self._finish()
        try:
            yield
        finally:
            for parameter, value in kept:
                parameter.data.copy_(value)
            for group, before in zip(self.state.optimizer.param_groups, groups, strict=True):
                group.update(before)
            self.trainable.train()

    @torch.no_grad()
    def _check_finite(self, loss: Tensor | None) -> None:
        """Refuse to go on, to save or to end with a loss or weights that are not finite.

        Raises:
            Failure: naming the step, and the checkpoint before it.
        """
        finite = loss is None or math.isfinite(loss.item())
        if finite and all(bool(torch.isfinite(p).all()) for p in self.trainable.parameters()):
            return
        kept = (
            f"; the checkpoint in {self.checkpoint} is kept" if self.checkpoint is not None and self.checkpoint.exists() else ""
        )
        raise Failure(
            f"the {'weights are' if finite else 'loss is'} not finite at step {self.state.step}{kept}",
            found=None if finite or loss is None else loss.item(),
            expected="a lower train.lr",
        )

    def _figures(self, x_BD: Tensor, y_BE: Tensor, loss: Tensor, cache: Cache) -> dict[str, float]:
        """What the training curves show, from one batch, and from held-out activations where there are some."""
        error_BE = y_BE - cache.run_once(self.model, x_BD)
        auxk = float(cache.read("auxk_loss")) if "auxk_loss" in cache else 0.0
        # Without AuxK's part: it is there only while latents are dead, and would draw steps into the curve.
        figures = batch_figures(self.trainable, y_BE, error_BE, loss.detach() - self.config.auxk.coefficient * auxk, cache)
        figures["lr"] = self.config.lr * self.lr_factor(self.state.step - 1)
        if self.steered:
            figures[self.steered.removesuffix("_loss") + "_coefficient"] = self.state.controller.coefficient
        if self.config.dead_latents in ("auxk", "both"):
            figures["auxk_loss"] = auxk
        if (tracker := find_tracker(self.model)) is not None:
            figures["dead_latents"] = float(tracker.dead(self.config.dead_window).sum())
        if self._held_out_batches:
            with self._in_use():
                measured = measure(self.model, self._held_out_batches)
            figures |= {f"held_out_{name}": value for name, value in measured.items()}
        return figures

    def _steered(self) -> str | None:
        """The loss whose coefficient is steered; None where the architecture has none of that name."""
        targeting = self.config.l0_targeting
        if "coefficient" in targeting.model_fields_set:  # its default may be missing: TopK has nothing to steer
            self.trainable.check_coefficients([targeting.coefficient], "train.l0_targeting.coefficient")
        return targeting.coefficient if targeting.coefficient in self.trainable.losses else None


def _check_widths(architecture: Architecture[Any], source: ActivationSource, name: str) -> None:
    wanted = (architecture.d_in, architecture.d_out)
    given = (sum(source.widths), sum(source.target_widths))
    if wanted != given:
        raise InputError(
            f"the architecture and the {name} differ in width",
            where=type(architecture).__name__,
            found=f"d_in {wanted[0]}, d_out {wanted[1]}",
            expected=f"d_in {given[0]}, d_out {given[1]}",
        )
