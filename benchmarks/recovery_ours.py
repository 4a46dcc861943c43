"""Trains our SAEs on the frozen rows. The same protocol as `recovery_peers.py`: a job a line in, an answer a line out."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import sae
from sae.activations.tensors import TensorSource, map_tensor
from sae.architecture import import_architecture, save
from sae.architectures import SHIPPED
from sae.config import parse_config
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer

# Each entry of the tables: which shipped architecture, and what differs from the defaults of its own config and of `train`.
# All subtract the decoder's bias, since the rows have one, and revive dead latents as the peers do.
ENTRIES: dict[str, dict[str, Any]] = {
    name: {"architecture": name, "sae": {"pre_bias": True}, "train": {"dead_latents": "auxk"}}
    for name in ("vanilla", "anthropic", "gated", "p_anneal", "prolu", "jumprelu", "topk", "batchtopk", "matryoshka")
}
ENTRIES["jumprelu_target"] = ENTRIES["jumprelu"] | {"sae": {"pre_bias": True, "penalty": "quadratic"}}
ENTRIES["topk"]["sae"]["anneal"] = {"start": 8.0, "until": 0.7}
ENTRIES["matryoshka"]["sae"]["prefixes"] = [1 / 8, 1 / 4, 1 / 2, 1]  # the peers' too
# A gated SAE's dead latents have a closed gate: only new rows revive them, and not before it has become sparse.
ENTRIES["gated"]["train"] = {
    "dead_latents": "resample",
    "resample": {"every": 0.05, "delay": 0.4, "finish": 0.1, "decoder_direction": "error", "encoder_direction": "error"},
    "schedule": {"cooldown": 0.3},
}
ENTRIES["anthropic"]["train"]["clip_grad_norm"] = 1.0  # part of that recipe


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, save, load, encode the held-out rows."""
    started = time.perf_counter()
    source = TensorSource(map_tensor(Path(job["rows"]), "x"))
    settings = ENTRIES[job["architecture"]]
    config = parse_config(
        TrainConfig,
        {
            "steps": job["steps"],
            "batch_size": job["batch_size"],
            "lr": job["lr"],
            "seed": job["seed"],
            "l0_target": job["coefficient"],
            "dead_window": job["dead_steps"] * job["batch_size"],
            "held_out_rows": 0,
            "log_every": 250,
            **settings["train"],
        },
        "train",
    )
    architecture_class = import_architecture(SHIPPED[settings["architecture"]], "architecture")
    architecture = architecture_class(
        parse_config(architecture_class.config_class, settings["sae"], "sae"),
        d_in=job["d_in"],
        d_sae=job["d_sae"],
        l0_target=config.l0_target,
        seed=job["seed"],
    )
    trainer = Trainer(architecture, source, config, device="cpu")
    trainer.train()
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        save(architecture, Path(folder), hook_points=source.hook_points, lineage={}, normalizer=trainer.normalizer)
        saved = sae.load(Path(folder))
        with torch.no_grad():
            pairs = []
            for x_BD in load_file(job["held_out"])["x"].split(4096):
                codes = saved.encode(x_BD)
                pairs.append((codes.dense(), saved.decode(codes)))
        codes_NF, reconstruction_ND = (torch.cat(parts).contiguous() for parts in zip(*pairs, strict=True))
        decoder_FD = saved.decoder_rows_FD.detach().clone().contiguous()
    save_file({"codes": codes_NF, "reconstruction": reconstruction_ND, "decoder": decoder_FD}, job["out"])
    return {"seconds": round(seconds, 1)}


def main() -> None:
    """Answer jobs until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
