"""Stage `activations`: tokens go through the language model, and what passes its hook points is kept."""

from __future__ import annotations

from transformers.utils import logging as transformers_logging

from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from sae.activations.capture import ActivationsConfig, capture
from sae.activations.model import load_model
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import SPLITS, TokenSet


def body(ctx: StageContext) -> str:
    transformers_logging.disable_progress_bar()
    config, subject = ctx.section("activations", ActivationsConfig), ctx.section("subject", SubjectConfig)
    device = ctx.run.torch_device()
    fingerprint = ctx.read_json("data/inputs/subject.json")
    model = load_model(subject, fingerprint["revision"], device)
    sets = {split: TokenSet.load(ctx.root / "data/tokens" / split) for split in SPLITS}
    unfinished = ctx.work / "activations"
    rows = sum(int((~s.special_SC).sum()) if split == "train" else s.tokens_SC.numel() for split, s in sets.items())
    manifests = {}
    with Progress("activations", rows, "rows") as progress:
        for split, tokens in sets.items():
            inputs = {
                "subject": fingerprint.get("sha256") or fingerprint["revision"],
                "tokens": ctx.read_json(f"data/tokens/{split}/tokens.json")["sha256"],
            }
            manifests[split] = capture(model, tokens, config, unfinished / split, split=split, inputs=inputs, progress=progress)
    size = sum(f.stat().st_size for f in unfinished.rglob("*") if f.is_file())
    ctx.publish(unfinished, "data/activations")
    widths = ", ".join(f"{name} [{width}]" for name, width in manifests["train"].hook_points.items())
    counts = ", ".join(f"{split} {m.rows:,} rows" for split, m in manifests.items())
    return f"{widths}: {counts}, {size / 1e6:,.0f} MB, {rows / progress.seconds:,.0f} rows/s → data/activations"


if __name__ == "__main__":
    raise SystemExit(run_stage("activations", body))
