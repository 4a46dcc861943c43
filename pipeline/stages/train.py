"""Stage `train`: an SAE learns from the stored activations. Needs no language model."""

from __future__ import annotations

import hashlib
import importlib
import shutil

from pipeline.logging import curve_loggers
from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from pipeline.stopping import StopRequest
from sae.activations.loader import StoreSource
from sae.activations.store import Store
from sae.architecture import save
from sae.architectures.config import SAEConfig
from sae.training.config import TrainConfig
from sae.training.source import ActivationSource
from sae.training.trainer import Stopped, Trainer

TRAIN = "data/activations/train"
ROWS_MEASURED = 16_384  # of the training split, for the line that the stage prints


def body(ctx: StageContext) -> str:
    sae_config, config = ctx.section("sae", SAEConfig), ctx.section("train", TrainConfig)
    source = open_source(ctx, sae_config)
    architecture = sae_config.architecture_class()(
        sae_config.architecture_config(),
        d_in=sum(source.widths),
        d_sae=sae_config.width(source.widths[0]),
        d_out=sum(source.target_widths),
        widths=source.widths,
        target_widths=source.target_widths,
        l0_target=config.l0_target,
        seed=config.seed,
    )
    curves = ctx.work / "curves"
    shutil.rmtree(curves, ignore_errors=True)
    with (
        Progress("train", config.steps, "steps") as progress,
        curve_loggers(ctx.run.log, curves) as log,
        StopRequest(ctx.run.grace) as stop,
    ):
        trainer = Trainer(
            architecture,
            source,
            config,
            device=ctx.run.torch_device(),
            held_out=StoreSource(ctx.root / "data/activations/held_out", source.hook_points, source.target_hook_points),
            checkpoint=ctx.work / "checkpoint",
            log=log,
            progress=progress,
            stop=stop,
        )
        try:
            trainer.train()
        except Stopped:
            raise stop.reason() from None
    with ctx.output("data/sae") as out:
        save(
            architecture,
            out,
            hook_points=source.hook_points,
            target_hook_points=source.target_hook_points,
            lineage=lineage(ctx),
            normalizer=trainer.normalizer,
        )
    if config.keep_state:
        shutil.copytree(ctx.work / "checkpoint", curves / "state")
    ctx.publish(curves, "data/train")
    return summary(trainer, sae_config.architecture, progress.rate * config.batch_size)


def summary(trainer: Trainer, name: str, rate: float) -> str:
    """What was made, measured on training rows in the form that was saved."""
    config, figures = trainer.config, trainer.measure(trainer.source, ROWS_MEASURED)
    target = f" (target {config.l0_target:g})" if config.l0_target is not None else ""
    ended = f"; ended early: {trainer.state.stopping.reason}" if trainer.state.stopping.reason else ""
    return (
        f"{name} {trainer.architecture.d_in} → {trainer.architecture.d_sae}, {trainer.state.step:,} steps of "
        f"{config.batch_size:,}, L0 {figures['l0']:.2f}{target}, FVU {figures['fvu']:.4f}, {rate:,.0f} tokens/s → data/sae{ended}"
    )


def open_source(ctx: StageContext, config: SAEConfig) -> ActivationSource:
    """The training activations: a store, or the language model itself where the stage `activations` left word to stream."""
    if not (ctx.root / TRAIN / "stream.json").exists():
        directory, device = ctx.root / TRAIN, ctx.run.torch_device()
        return StoreSource(directory, config.hook_points, config.target_hook_points, device=device)
    # By name, since it imports all of capturing, which is no dependency of this stage: the word that was left hashes it.
    streaming = importlib.import_module("pipeline.streaming")
    source: ActivationSource = streaming.open_stream(ctx, config.hook_points, config.target_hook_points)
    return source


def lineage(ctx: StageContext) -> dict[str, str]:
    """Hashes of all that the SAE is made from."""
    digest = hashlib.sha256()
    for path in sorted((ctx.root / TRAIN).glob("*.json")):
        digest.update(path.read_bytes())
    return {**Store(ctx.root / TRAIN).manifest.inputs, "activations": digest.hexdigest(), "code": ctx.code_hash()}


if __name__ == "__main__":
    raise SystemExit(run_stage("train", body))
