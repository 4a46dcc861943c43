"""Trains other libraries' SAEs on the frozen rows, each through its own trainer. Runs in `.peers`, and imports nothing of ours.

A job comes as one line of JSON on standard input, and is answered by one line of JSON on standard output once the saved
model has been loaded again and its codes on the held-out rows lie in a safetensors file. What is measured is measured by
`benchmarks/recovery.py`, the same for everyone.

Settings that the peers mean for runs a hundred times as long are scaled to this one, since their defaults would cripple
them here: warm-ups, the decay at the end, when a latent counts as dead, how fast a threshold's average moves.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="disabled", SPARSIFY_DISABLE_TRITON="1", TQDM_DISABLE="1")

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

LEVELS = (64, 128, 256, 512)  # of Matryoshka
NORM_BATCHES = 100


class Rows:
    """Batches of the frozen rows in the order that the seeds of the epochs decide; every iteration starts anew."""

    def __init__(self, job: dict[str, Any]) -> None:
        with safe_open(job["rows"], framework="pt") as file:
            self.rows_ND: Tensor = file.get_tensor("x")
        self.batch_size: int = job["batch_size"]
        self.epoch_seeds: list[int] = job["epoch_seeds"]

    def __iter__(self) -> Iterator[Tensor]:
        order_N = torch.empty(0, dtype=torch.int64)
        for seed in self.epoch_seeds:
            epoch_N = torch.randperm(len(self.rows_ND), generator=torch.Generator().manual_seed(seed))
            order_N = torch.cat([order_N, epoch_N])
            while len(order_N) >= self.batch_size:
                yield self.rows_ND[order_N[: self.batch_size]]
                order_N = order_N[self.batch_size :]


def train_sae_lens(job: dict[str, Any], folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """SAELens: `SAETrainer` over a data provider, activations scaled to a mean norm of √d as it recommends."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig

    steps, architecture, coefficient = job["steps"], job["architecture"], job["coefficient"]
    common = {"d_in": job["d_in"], "d_sae": job["d_sae"], "normalize_activations": "expected_average_only_in"}
    warm_up = job["sparsity_warm_up_steps"]
    config: Any = {
        "standard": lambda: sae_lens.StandardTrainingSAEConfig(**common, l1_coefficient=coefficient, l1_warm_up_steps=warm_up),
        "gated": lambda: sae_lens.GatedTrainingSAEConfig(**common, l1_coefficient=coefficient, l1_warm_up_steps=warm_up),
        "topk": lambda: sae_lens.TopKTrainingSAEConfig(**common, k=int(coefficient)),
        "batchtopk": lambda: sae_lens.BatchTopKTrainingSAEConfig(**common, k=coefficient),
        "matryoshka_batchtopk": lambda: sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
            **common, k=coefficient, matryoshka_widths=list(LEVELS)
        ),
        "jumprelu": lambda: sae_lens.JumpReLUTrainingSAEConfig(**common, l0_coefficient=coefficient, l0_warm_up_steps=warm_up),
        # Gemma Scope 2's penalty about a target; its coefficient is the weight that the authors give it in their example.
        "jumprelu_target": lambda: sae_lens.JumpReLUTrainingSAEConfig(
            **common, jumprelu_sparsity_loss_mode="quadratic", target_l0=coefficient, l0_coefficient=1.0, l0_warm_up_steps=warm_up
        ),
    }[architecture]()
    sae = sae_lens.TrainingSAE.from_dict(config.to_dict())
    rows = Rows(job)

    def provider() -> Iterator[Tensor]:
        estimate = iter(rows)  # the scale is estimated from the first batches, which are then trained on like the rest
        for _ in range(NORM_BATCHES):
            yield next(estimate)
        yield from rows

    trainer = sae_lens.SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * job["batch_size"],
            train_batch_size_samples=job["batch_size"],
            lr=job["lr"],
            lr_end=0.0,
            lr_warm_up_steps=job["lr_warm_up_steps"],
            lr_decay_steps=job["lr_decay_steps"],
            dead_feature_window=job["dead_steps"],
            n_batches_for_norm_estimate=NORM_BATCHES,
            device="cpu",
        ),
        sae=sae,
        data_provider=provider(),
    )
    trainer.fit().save_inference_model(folder)
    saved = sae_lens.SAE.load_from_disk(folder, device="cpu")
    return saved.encode, saved.decode, saved.W_dec


def train_dictionary_learning(
    job: dict[str, Any], folder: Path
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """dictionary_learning: `trainSAE` with activations scaled to a mean squared norm of 1, as it recommends."""
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, p_anneal, standard, top_k
    from dictionary_learning.training import trainSAE
    from dictionary_learning.utils import load_dictionary

    steps, coefficient = job["steps"], job["coefficient"]
    warm_ups = {"sparsity_warmup_steps": job["sparsity_warm_up_steps"]}
    threshold = {"threshold_beta": 0.99, "threshold_start_step": steps // 3}
    trainer_class, arguments = {
        "standard": (standard.StandardTrainer, {"l1_penalty": coefficient, **warm_ups}),
        "april_update": (standard.StandardTrainerAprilUpdate, {"l1_penalty": coefficient, **warm_ups}),
        "gated": (gdm.GatedSAETrainer, {"l1_penalty": coefficient, **warm_ups}),
        "p_anneal": (
            p_anneal.PAnnealTrainer,
            {
                "initial_sparsity_penalty": coefficient,
                "sparsity_function": "Lp^p",
                "p_end": 0.2,
                "anneal_start": steps // 3,
                **warm_ups,
            },
        ),
        "topk": (top_k.TopKTrainer, {"k": int(coefficient), **threshold}),
        "batchtopk": (batch_top_k.BatchTopKTrainer, {"k": int(coefficient), **threshold}),
        "matryoshka_batchtopk": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
            {
                "k": int(coefficient),
                "group_fractions": [(b - a) / LEVELS[-1] for a, b in zip((0, *LEVELS), LEVELS, strict=False)],
                **threshold,
            },
        ),
        "jumprelu": (jumprelu.JumpReluTrainer, {"target_l0": coefficient, **warm_ups}),
    }[job["architecture"]]

    def make(**config: Any) -> Any:
        trainer = trainer_class(**config)
        trainer.dead_feature_threshold = job["dead_steps"] * job["batch_size"]  # 10 million rows, more than the whole run has
        return trainer

    trainSAE(
        Rows(job),
        [
            {
                "trainer": make,
                "activation_dim": job["d_in"],
                "dict_size": job["d_sae"],
                "steps": steps,
                "lr": job["lr"],
                "warmup_steps": job["lr_warm_up_steps"],
                "decay_start": steps - job["lr_decay_steps"],
                "seed": job["seed"],
                "device": "cpu",
                "layer": 0,
                "lm_name": "synthetic",
                **arguments,
            }
        ],
        steps=steps,
        save_dir=str(folder),
        normalize_activations=True,
        device="cpu",
    )
    saved, _ = load_dictionary(str(folder / "trainer_0"), "cpu")
    decoder_FD = saved.W_dec if hasattr(saved, "W_dec") else saved.decoder.weight.T
    return saved.encode, saved.decode, decoder_FD


def train_sparsify(job: dict[str, Any], folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """sparsify: its `SparseCoder`, driven as its trainer (which wants a language model) drives it, with Adam.

    Rows are scaled to a mean squared norm of 1 and the saved biases scaled back, as nothing in the library does it.
    """
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    rows = Rows(job)
    norm = float(rows.rows_ND[: NORM_BATCHES * job["batch_size"]].square().sum(1).mean().sqrt())
    sae = SparseCoder(job["d_in"], SparseCoderConfig(num_latents=job["d_sae"], k=int(job["coefficient"])))
    optimizer = torch.optim.Adam(sae.parameters(), lr=job["lr"])
    warm_up, decay, steps = job["lr_warm_up_steps"], job["lr_decay_steps"], job["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up, max(0.0, (steps - step) / decay))
    )
    silent_F = torch.zeros(job["d_sae"], dtype=torch.int64)
    for step, x_BD in zip(range(steps), rows, strict=False):
        x_BD = x_BD / norm
        if step == 0:
            sae.b_dec.data = x_BD.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x_BD, dead_mask=silent_F > job["dead_steps"])
        (out.fvu + out.auxk_loss / 32).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        silent_F += 1
        silent_F[out.latent_indices.flatten()] = 0
    sae.set_decoder_norm_to_unit_norm()
    sae.encoder.bias.data *= norm
    sae.b_dec.data *= norm
    sae.save_to_disk(folder)
    saved = SparseCoder.load_from_disk(folder)
    decoder_FD = saved.W_dec
    assert decoder_FD is not None

    def encode(x_BD: Tensor) -> Tensor:
        out = saved.encode(x_BD)
        return torch.zeros(len(x_BD), job["d_sae"]).scatter_(1, out.top_indices, out.top_acts)

    return encode, lambda codes_BF: codes_BF @ decoder_FD + saved.b_dec, decoder_FD


TRAIN = {"sae_lens": train_sae_lens, "dictionary_learning": train_dictionary_learning, "sparsify": train_sparsify}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, save, load, encode the held-out rows."""
    torch.manual_seed(job["seed"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        encode, decode, decoder_FD = TRAIN[job["tool"]](job, Path(folder))
        seconds = time.perf_counter() - started
        with torch.no_grad(), safe_open(job["held_out"], framework="pt") as file:
            pairs = []
            for x_BD in file.get_tensor("x").split(4096):
                codes_BF = encode(x_BD)
                pairs.append((codes_BF, decode(codes_BF)))
        codes_NF, reconstruction_ND = (torch.cat(parts).contiguous() for parts in zip(*pairs, strict=True))
        decoder_FD = decoder_FD.detach().contiguous()
    save_file({"codes": codes_NF, "reconstruction": reconstruction_ND, "decoder": decoder_FD}, job["out"])
    return {"seconds": round(seconds, 1)}


def main() -> None:
    """Answer jobs until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the libraries print
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
