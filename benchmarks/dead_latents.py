"""What each part of resampling and of AuxK does for dead latents, on an aggressive L1 run and on TopK.

    python benchmarks/dead_latents.py [--store data/activations/train] [--only NAME …]

Every run trains on the same rows in the same order from the same initial weights; one thing differs from run to run. Each
result is kept in .work/dead_latents, so that a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine

from sae.activations.loader import StoreSource
from sae.architecture import import_architecture
from sae.architectures import SHIPPED
from sae.config import parse_config
from sae.training.config import TrainConfig
from sae.training.resampling import need_tracker
from sae.training.trainer import Trainer

STEPS, BATCH, EXPANSION, WINDOW = 2500, 1024, 4, 1_000_000
BASE: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": BATCH,
    "lr": 3e-3,
    "l0_target": 8,
    "log_every": 100,
    "held_out_rows": 0,
    "dead_window": 100_000,
}
# A fixed coefficient over twice as large as the one that this target ends with, a high learning rate, and no pre-encoder bias.
AGGRESSIVE: dict[str, Any] = {"l0_target": None, "coefficients": {"sparsity_loss": 0.045}, "lr": 1e-2}
RESAMPLE: dict[str, Any] = {"dead_latents": "resample"}
AUXK: dict[str, Any] = {"dead_latents": "auxk"}

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "L1, nothing": ("vanilla", AGGRESSIVE),
    "L1, resampling": ("vanilla", AGGRESSIVE | RESAMPLE),
    "L1, resampling, both directions the error": (
        "vanilla",
        AGGRESSIVE | RESAMPLE | {"resample": {"decoder_direction": "error", "encoder_direction": "error"}},
    ),
    "L1, resampling, decoder the error": ("vanilla", AGGRESSIVE | RESAMPLE | {"resample": {"decoder_direction": "error"}}),
    "L1, resampling, both directions model_in": (
        "vanilla",
        AGGRESSIVE | RESAMPLE | {"resample": {"decoder_direction": "model_in", "encoder_direction": "model_in"}},
    ),
    "L1, resampling, encoder rows at full norm": ("vanilla", AGGRESSIVE | RESAMPLE | {"resample": {"encoder_scale": 1.0}}),
    "L1, resampling, optimizer not reset": ("vanilla", AGGRESSIVE | RESAMPLE | {"resample": {"reset_optimizer": False}}),
    "L1, resampling, no re-warm": ("vanilla", AGGRESSIVE | RESAMPLE | {"schedule": {"resample_warmup": 0}}),
    "L1, AuxK": ("vanilla", AGGRESSIVE | AUXK),
    "L1, both": ("vanilla", AGGRESSIVE | {"dead_latents": "both"}),
    "TopK, nothing": ("topk", {}),
    "TopK, resampling": ("topk", RESAMPLE),
    "TopK, AuxK": ("topk", AUXK),
    "TopK, AuxK, weight 1": ("topk", AUXK | {"auxk": {"coefficient": 1.0}}),
    "TopK, AuxK, k 16": ("topk", AUXK | {"auxk": {"k": 16}}),
    "TopK, both": ("topk", {"dead_latents": "both"}),
}


def run(name: str, store: Path) -> dict[str, Any]:
    """Train one of the runs and measure it at its end."""
    architecture_name, changes = RUNS[name]
    config = parse_config(TrainConfig, BASE | changes)
    source = StoreSource(store)
    (d_in,) = source.widths
    cls = import_architecture(SHIPPED[architecture_name], "architecture")
    own = parse_config(cls.config_class, {"pre_bias": architecture_name != "vanilla"})
    architecture = cls(own, d_in=d_in, d_sae=EXPANSION * d_in, l0_target=config.l0_target)
    trainer = Trainer(architecture, source, config)
    started = time.monotonic()
    trainer.train()
    tracker = need_tracker(trainer.model)
    return {
        "silent": float(tracker.dead(WINDOW).float().mean()),
        "ever_dead": max(figures["dead_latents"] for _, figures in trainer.state.history) / architecture.d_sae,
        **trainer.measure(source, 65_536, seed=1),
        "coefficient": trainer.state.controller.coefficient,
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/activations/train"))
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = Path(".work/dead_latents")
    kept.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in arguments.only:
        path = kept / f"{name.replace(', ', '--').replace(' ', '_')}.json"
        if not path.exists():
            path.write_text(json.dumps(run(name, arguments.store)))
        results[name] = json.loads(path.read_text())
        r = results[name]
        print(
            f"{name:45} silent {r['silent']:6.2%}  ever dead {r['ever_dead']:6.2%}  L0 {r['l0']:6.3f}  FVU {r['fvu']:.4f}"
            f"  {r['seconds']:.0f} s",
            flush=True,
        )
    if set(arguments.only) == set(RUNS):
        write(results)


def write(results: dict[str, Any]) -> None:
    """The committed figures: JSON, and the same as a table."""
    folder = Path(__file__).parent
    here = machine()
    (folder / "results/dead_latents.json").write_text(json.dumps({"machine": here, "results": results}, indent=1) + "\n")
    lines = [
        "# Dead latents: what each part does\n",
        f"`python benchmarks/dead_latents.py` on {here['cpu']}, {here['date']}, torch {here['torch']}. Activations of the model",
        f"that ships, layer 1; d_sae {EXPANSION} × d_in; {STEPS:,} steps of {BATCH:,}; TopK's L0 {BASE['l0_target']}; L1: a",
        f"fixed coefficient of {AGGRESSIVE['coefficients']['sparsity_loss']}, learning rate {AGGRESSIVE['lr']:g}, no",
        "pre-encoder bias.",
        f"*Silent*: share of the latents that did not fire on the last {WINDOW:,} training tokens. *Most dead*: the largest",
        f"share silent for {BASE['dead_window']:,} tokens at any point. L0 and FVU: the finished model on training rows.\n",
        "| run | silent | most dead | L0 | FVU |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['silent']:.2%} | {r['ever_dead']:.1%} | {r['l0']:.2f} | {r['fvu']:.4f} |" for name, r in results.items()
    ]
    (folder / "dead_latents.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
