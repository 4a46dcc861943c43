"""What storing activations in fewer bits does to the SAE that is trained on them.

    PYTHONPATH=. python benchmarks/storage_types.py

Run it after `make run`. The training split's tokens go through the subject once more, and what passes is stored in float32;
stores of all types are made of those rows. The default SAE is trained on each for half the default run's steps, and every
SAE is measured on the float32 rows of the held-out split. Shards of another size give another order of batches, one run each:
a difference of a few thousandths is noise.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from sae.activations.capture import ActivationsConfig, capture
from sae.activations.encoding import TORCH
from sae.activations.loader import StoreSource
from sae.activations.model import load_model
from sae.activations.own import store_tensors
from sae.activations.store import Store
from sae.architectures.topk import TopKSAE
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import TokenSet
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer

HERE = Path(__file__).parent
WORK = HERE.parent / ".work/storage_types"
HOOK_POINT = "model.layers.1"
STEPS = 1000


def capture_float32() -> None:
    """Both splits in float32."""
    subject = SubjectConfig()
    model = load_model(subject, None, torch.device("cpu"))
    config = ActivationsConfig(hook_points=[HOOK_POINT], dtype="float32")
    for split in ("train", "held_out"):
        tokens = TokenSet.load(HERE.parent / "data/tokens" / split)
        capture(model, tokens, config, WORK / "captured" / split, split=split, inputs={})


def trained_on(dtype: str) -> dict[str, Any]:
    """Figures of an SAE trained on a store of this type."""
    directory, exact = WORK / dtype, Store(WORK / "captured/train")
    files = [exact.directory / shard.file for shard in exact.manifest.shards]
    store_tensors({HOOK_POINT: files}, directory, dtype=dtype, seed=1)  # type: ignore[arg-type]  # one of the five
    source = StoreSource(directory)
    config = TrainConfig(steps=STEPS, batch_size=1024, lr=2e-3, l0_target=19, dead_latents="auxk", log_every=STEPS)
    trainer = Trainer(TopKSAE(d_in=source.widths[0], d_sae=12 * source.widths[0], l0_target=19), source, config)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    held_out = trainer.measure(StoreSource(WORK / "captured/held_out"), 100_000)
    size = sum(shard.bytes for shard in source.store.manifest.shards)
    return {"dtype": dtype, "bytes": size, "fvu": held_out["fvu"], "l0": held_out["l0"], "seconds": seconds}


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    capture_float32()
    results = [trained_on(dtype) for dtype in TORCH]
    lines = [
        "# Storage types",
        "",
        "Written by `benchmarks/storage_types.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + f"; {STEPS} steps, one run each: shards of another size give another order of batches, so a few thousandths are noise.",
        "",
        "| stored as | MB | bytes a row | held-out FVU | against float32 |",
        "|---|---:|---:|---:|---:|",
    ]
    rows, exact = Store(WORK / "captured/train").manifest.rows, results[0]["fvu"]
    for result in results:
        cells = [result["dtype"], f"{result['bytes'] / 1e6:.0f}", f"{result['bytes'] / rows:.0f}", f"{result['fvu']:.5f}"]
        lines.append("| " + " | ".join([*cells, f"{result['fvu'] / exact - 1:+.2%}"]) + " |")
    print("\n".join(lines[4:]))
    (HERE / "storage_types.md").write_text("\n".join(lines) + "\n")
    (HERE / "results/storage_types.json").write_text(json.dumps({"machine": machine(), "runs": results}, indent=1) + "\n")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
