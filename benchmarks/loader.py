"""How fast batches come from a store, against the machine's own speed, and whether training waits for them.

    PYTHONPATH=. python benchmarks/loader.py

Run it after `make run`: it reads the training split that the default run stored. Figures are bytes of stored rows a second,
medians over repetitions that take turns, all from the page cache: a copy in memory; the files read from front to end into
one buffer; shuffled batches as the loader gathers them; and the same as the trainer gets them, in float32. Then a stretch of
the default run's training, with the time that each step waits for its batch.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from sae.activations.loader import StoreSource
from sae.architectures.topk import TopKSAE
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer

HERE = Path(__file__).parent
TRAIN = HERE.parent / "data/activations/train"
BATCH = 1024
REPETITIONS = 7
STEPS = 300


def memory_copy(size: int) -> float:
    """Bytes a second of a copy in memory."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(source)
    return size / (time.perf_counter() - began)


def sequential_read(files: list[Path]) -> float:
    """Bytes a second of reading all files into one buffer."""
    buffer = memoryview(bytearray(max(path.stat().st_size for path in files)))
    began, size = time.perf_counter(), 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            size += file.readinto(buffer)  # type: ignore[operator]
    return size / (time.perf_counter() - began)


def gathered(source: StoreSource) -> float:
    """Bytes of stored rows a second, shuffled, as they are stored: one epoch."""
    count, width = source.rows // BATCH, source.widths[0]
    began = time.perf_counter()
    for _ in islice(source._raw(BATCH, 0, 0), count):
        pass
    return count * BATCH * width * 2 / (time.perf_counter() - began)


def served(source: StoreSource) -> float:
    """Bytes of stored rows a second, shuffled and in float32, as the trainer gets them: one epoch."""
    count, width = source.rows // BATCH, source.widths[0]
    began = time.perf_counter()
    for _ in islice(source.batches(BATCH, seed=0), count):
        pass
    return count * BATCH * width * 2 / (time.perf_counter() - began)


class Waiting:
    """A source that takes the time in which its reader waits for a batch."""

    def __init__(self, source: StoreSource) -> None:
        self.source, self.seconds, self.batches_given = source, 0.0, 0
        self.hook_points, self.widths = source.hook_points, source.widths
        self.target_hook_points, self.target_widths = source.target_hook_points, source.target_widths

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Any:
        """The source's batches."""
        batches = self.source.batches(batch_size, seed=seed, start=start)
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.seconds += time.perf_counter() - began
            self.batches_given += 1
            yield batch


def data_wait() -> dict[str, float]:
    """Milliseconds of a training step of the default run, and of it waiting for the batch."""
    source = Waiting(StoreSource(TRAIN))
    config = TrainConfig(steps=STEPS, batch_size=BATCH, lr=2e-3, l0_target=19, dead_latents="auxk", log_every=STEPS)
    trainer = Trainer(TopKSAE(d_in=source.widths[0], d_sae=12 * source.widths[0], l0_target=19), source, config)
    source.seconds, source.batches_given = 0.0, 0
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    return {"step_ms": 1e3 * seconds / STEPS, "wait_ms": 1e3 * source.seconds / source.batches_given}


def main() -> None:
    files = sorted(TRAIN.glob("shard-*"))
    source = StoreSource(TRAIN)
    measured: dict[str, Callable[[], float]] = {
        "copy in memory": lambda: memory_copy(source.store.manifest.shards[0].bytes),
        "sequential read": lambda: sequential_read(files),
        "shuffled batches, as stored": lambda: gathered(source),
        "shuffled batches, float32": lambda: served(source),
    }
    for measure in measured.values():
        measure()  # fills the page cache, touches the memory
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(REPETITIONS):
        for name, measure in measured.items():
            rates[name].append(measure())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    wait = data_wait()
    read = medians["sequential read"]
    lines = [
        "# Loader",
        "",
        "Written by `benchmarks/loader.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + f"; {torch.get_num_threads()} threads; float16 rows of {source.widths[0]} dimensions, batches of {BATCH}.",
        "",
        "| | GB/s | of the sequential read |",
        "|---|---:|---:|",
        *(f"| {name} | {rate / 1e9:.2f} | {rate / read:.2f} |" for name, rate in medians.items()),
        "",
        f"A training step of the default run takes {wait['step_ms']:.1f} ms, of which it waits {wait['wait_ms']:.2f} ms for its "
        f"batch ({wait['wait_ms'] / wait['step_ms']:.1%}).",
    ]
    print("\n".join(lines[4:]))
    (HERE / "loader.md").write_text("\n".join(lines) + "\n")
    (HERE / "results/loader.json").write_text(json.dumps({"machine": machine(), "rates": rates, "wait": wait}, indent=1) + "\n")


if __name__ == "__main__":
    main()
