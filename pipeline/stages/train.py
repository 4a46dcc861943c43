"""Stage `train`: an SAE learns from the stored activations. Needs no language model."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from pipeline.logging import curve_loggers
from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from sae.activations.loader import StoreSource
from sae.architecture import save
from sae.architectures.config import SAEConfig
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer


def body(ctx: StageContext) -> str:
    sae_config, config = ctx.section("sae", SAEConfig), ctx.section("train", TrainConfig)
    device = ctx.run.torch_device()
    source = StoreSource(ctx.root / "data/activations/train", sae_config.hook_point)
    architecture = sae_config.architecture_class()(
        sae_config.architecture_config(),
        d_in=source.d_in,
        d_sae=sae_config.width(source.d_in),
        l0_target=config.l0_target,
        center_D=source.mean() * input_scale(source, config),
        seed=config.seed,
    )
    curves = ctx.work / "curves"
    shutil.rmtree(curves, ignore_errors=True)
    with Progress("train", config.steps, "steps") as progress, curve_loggers(ctx.run.log, curves) as log:
        trainer = Trainer(
            architecture, source, config, device=device, checkpoint=ctx.work / "checkpoint", log=log, progress=progress
        )
        figures = trainer.train()
    with ctx.output("data/sae") as out:
        save(architecture, out, hook_points=source.hook_points, lineage=lineage(ctx, source), input_scale=trainer.input_scale)
    ctx.publish(curves, "data/train")
    rate = config.steps * config.batch_size / progress.seconds
    sparsity = f"L0 {figures['l0']:.1f}" + (f" (target {config.l0_target:g})" if config.l0_target is not None else "")
    return (
        f"{sae_config.architecture} {source.d_in} → {architecture.d_sae}, {config.steps:,} steps of {config.batch_size:,}, "
        f"{sparsity}, FVU {figures['fvu']:.3f}, {rate:,.0f} tokens/s → data/sae"
    )


def lineage(ctx: StageContext, source: StoreSource) -> dict[str, str]:
    """Hashes of all that the SAE is made from."""
    manifest = source.store.manifest
    digest = hashlib.sha256(Path(source.store.directory / "manifest.json").read_bytes()).hexdigest()
    return {**manifest.inputs, "activations": digest, "code": ctx.code_hash()}


if __name__ == "__main__":
    raise SystemExit(run_stage("train", body))
