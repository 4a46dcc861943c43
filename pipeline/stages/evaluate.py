"""Stage `evaluate`: the saved SAE, loaded as anyone would load it, meets documents that nothing was trained on."""

from __future__ import annotations

import json

from transformers.utils import logging as transformers_logging

from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from sae.activations.model import load_model
from sae.activations.store import Store
from sae.architecture import load
from sae.corpus.subject import SubjectConfig, load_model_config, load_tokenizer, model_kind
from sae.corpus.tokens import TokenSet
from sae.evaluation.evaluate import EvaluateConfig, Evaluation
from sae.evaluation.tasks import task_of


def body(ctx: StageContext) -> str:
    transformers_logging.disable_progress_bar()
    config, subject = ctx.section("evaluate", EvaluateConfig), ctx.section("subject", SubjectConfig)
    device = ctx.run.torch_device()
    revision = ctx.read_json("data/inputs/subject.json")["revision"]
    tokenizer = load_tokenizer(subject, revision)
    evaluation = Evaluation(
        load(ctx.root / "data/sae", device),
        load_model(subject, revision, device),
        tokenizer.decode,
        TokenSet.load(ctx.root / "data/tokens/held_out"),
        Store(ctx.root / "data/activations/held_out"),
        Store(ctx.root / "data/activations/train"),
        config,
        task=task_of(model_kind(subject, load_model_config(subject, revision)), tokenizer),
    )
    with Progress("evaluate", evaluation.work, "sequences") as progress:
        evaluation.progress = progress
        metrics, histograms, latents = evaluation.run()
    with ctx.output("data/evaluation") as out:
        for name, content in {"metrics": metrics, "histograms": histograms, "latents": latents}.items():
            (out / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    loss = metrics["loss"]
    recovered = "" if loss is None else f"loss recovered {loss['recovered_mean']:.4f} against mean ablation, "
    return (
        f"{metrics['tokens']:,} held-out tokens: L0 {metrics['l0']:.2f}, "
        f"FVU {metrics['fvu']:.4f} (PCA {metrics['pca']['fvu']:.4f}), "
        f"{recovered}{metrics['dead_latents']:,} dead latents → data/evaluation"
    )


if __name__ == "__main__":
    raise SystemExit(run_stage("evaluate", body))
