"""How much anonymous memory a capture, or an epoch of loading, takes beyond what the process has when it begins.

Run as ``python -m tests.sae.activations.memory capture|load DIRECTORY SEQUENCES``; prints a number of bytes. Linux only.
"""

from __future__ import annotations

import sys
import threading
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sae.activations.capture import ActivationsConfig, Capture
from sae.activations.loader import StoreSource
from sae.config import seeded_global_rng
from sae.corpus.tokens import TokenSet
from tests.sae.activations.killable import Model

CONTEXT, WIDTH = 64, 256


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class Peak(threading.Thread):
    """Watches until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.most = anonymous()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.most = max(self.most, anonymous())

    def result(self) -> int:
        self.over.set()
        self.join()
        return self.most - self.start_bytes


def tokens(directory: Path, sequences: int) -> TokenSet:
    """Sequences that lie in a file, as those of a finished stage do."""
    shape = (sequences, CONTEXT)
    document_SC = torch.arange(sequences, dtype=torch.int32)[:, None].expand(shape).clone()
    columns = {"tokens": torch.randint(0, 50, shape, dtype=torch.int32), "document": document_SC}
    save_file(columns | {"position": torch.zeros(shape, dtype=torch.int32)}, directory / "tokens.safetensors")
    del columns, document_SC
    mapped = load_file(directory / "tokens.safetensors")
    return TokenSet(mapped["tokens"], mapped["document"], mapped["position"], [], [], complete=True)


def main(what: str, directory: Path, sequences: int) -> None:
    torch.set_num_threads(1)
    if what == "load":
        source = StoreSource(directory / "store")
        first = next(source.batches(64, seed=1))  # what torch sets up once is not of the loading
        peak = Peak()
        peak.start()
        for _ in islice(source.batches(len(first[0]), seed=0), source.rows // 64):
            pass
    else:
        given = tokens(directory, sequences)
        with seeded_global_rng(0, "model"):
            model = Model(WIDTH).eval()
        config = ActivationsConfig(hook_points=["layers.0"], shard_mb=2, batch_size=16)
        work = Capture(model, given, config, directory / "store", split="train", inputs={})
        work.reader.read(torch.arange(16))
        peak = Peak()
        peak.start()
        work.write_parts()
        work.finish()
    print(peak.result())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
