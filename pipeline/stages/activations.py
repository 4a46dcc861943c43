"""Stage `activations`: tokens go through the language model, and what passes its hook points is kept."""

from __future__ import annotations

from pipeline.capturing import captures, helpers, helping, save_stream, unless_orphaned
from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from sae.activations.capture import ActivationsConfig
from sae.activations.plan import plan
from sae.corpus.subject import SubjectConfig


def body(ctx: StageContext) -> str:
    config, subject = ctx.section("activations", ActivationsConfig), ctx.section("subject", SubjectConfig)
    work = captures(ctx, config, subject)
    expected = plan(list(work.values()), ctx.run.workers)
    print(f"activations: {expected}", flush=True)
    expected.check(ctx.work)
    with (
        Progress("activations", expected.rows, "rows") as progress,
        helpers(["pipeline.stages.activations"], ctx.run.workers),
    ):
        for capture in work.values():
            capture.write_parts(progress)
    manifests = {split: capture.finish() for split, capture in work.items()}
    unfinished = ctx.work / "activations"
    if config.store == "stream":
        save_stream(ctx, config, subject, unfinished / "train")
    size = sum(f.stat().st_size for f in unfinished.rglob("*") if f.is_file())
    ctx.publish(unfinished, "data/activations")
    widths = ", ".join(f"{name} [{width}]" for name, width in manifests["train"].hook_points.items())
    names = (
        {"train": "a sample of train", "held_out": "held_out"} if config.store == "stream" else dict(zip(work, work, strict=True))
    )
    counts = ", ".join(
        f"{names[split]} {m.rows:,} rows" + (f" ({m.left_out:,} outliers left out)" if m.left_out else "")
        for split, m in manifests.items()
    )
    return f"{widths}: {counts}, {size / 1e6:,.0f} MB, {expected.rows / progress.seconds:,.0f} rows/s → data/activations"


def help_out(ctx: StageContext) -> None:
    """Capture parts for another process, until all are there."""
    config, subject = ctx.section("activations", ActivationsConfig), ctx.section("subject", SubjectConfig)
    for capture in captures(ctx, config, subject).values():
        capture.write_parts(unless_orphaned(lambda _: None))


if __name__ == "__main__":
    from pathlib import Path

    from pipeline.exits import exit_status

    if helping():
        raise SystemExit(exit_status(lambda: help_out(StageContext("activations", Path.cwd()))))
    raise SystemExit(run_stage("activations", body))
