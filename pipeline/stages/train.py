"""Stage `train`: an SAE learns from the stored activations. Needs no language model."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from pipeline.logging import curve_loggers
from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from pipeline.stopping import StopRequest
from sae.activations.loader import StoreSource
from sae.architecture import save
from sae.architectures.config import SAEConfig
from sae.training.config import TrainConfig
from sae.training.trainer import Stopped, Trainer

ROWS_MEASURED = 16_384  # of the training split, for the line that the stage prints


def body(ctx: StageContext) -> str:
    sae_config, config = ctx.section("sae", SAEConfig), ctx.section("train", TrainConfig)
    source = StoreSource(ctx.root / "data/activations/train", sae_config.hook_points, sae_config.target_hook_points)
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
            lineage=lineage(ctx, source),
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


def lineage(ctx: StageContext, source: StoreSource) -> dict[str, str]:
    """Hashes of all that the SAE is made from."""
    manifest = source.store.manifest
    digest = hashlib.sha256(Path(source.store.directory / "manifest.json").read_bytes()).hexdigest()
    return {**manifest.inputs, "activations": digest, "code": ctx.code_hash()}


if __name__ == "__main__":
    raise SystemExit(run_stage("train", body))
