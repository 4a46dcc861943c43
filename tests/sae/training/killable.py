"""A training run from a store, in a process of its own, which tells on its standard output where it is, a letter at a time.

`s` after each step, `b` when a save begins, `p` at every point within it, `e` when it is over, `d` when the run is done.
With `slow` it dawdles at each letter, so that whoever kills it can choose where.

Run as ``python -m tests.sae.training.killable DIRECTORY STEPS [slow]``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sae.activations.loader import StoreSource
from sae.activations.own import store_tensors
from sae.activations.store import MANIFEST
from sae.architecture import save
from sae.architectures.vanilla import VanillaSAE
from sae.config import parse_config
from sae.training import normalize, state
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer
from tests.sae.synthetic import SyntheticSource

CONFIG = {
    "batch_size": 32, "l0_target": 3, "log_every": 7, "checkpoint_every": 2, "held_out_rows": 64, "average": 0.9,
    "dead_latents": "both", "dead_window": 256, "resample": {"every": 40, "pool": 64}, "auxk": {"k": 2},
}  # fmt: skip


def main(directory: Path, steps: int, *, slow: bool) -> None:
    def tell(letter: bytes) -> None:
        os.write(1, letter)
        if slow:
            time.sleep(0.02)

    def telling(function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, telling before and after when it is called within a save."""

        def told(*args: Any, **named: Any) -> Any:
            if saving:
                tell(b"p")
            result = function(*args, **named)
            if saving:
                tell(b"p")
            return result

        return told

    saving: list[bool] = []
    save_state = state.TrainState.save

    def told_save(self: state.TrainState, to: Path) -> None:
        tell(b"b")
        saving.append(True)
        save_state(self, to)
        saving.clear()
        tell(b"e")

    state.TrainState.save = told_save  # type: ignore[method-assign]
    for owner, name in ((state, "save_file"), (state, "_sync"), (state.shutil, "rmtree"), (Path, "rename"), (Path, "write_text")):  # type: ignore[attr-defined]
        setattr(owner, name, telling(getattr(owner, name)))

    torch.set_num_threads(1)
    normalize.SAMPLE_ROWS = 1024
    rows = directory.parent / "rows"
    if not (rows / MANIFEST).exists():
        x_ND, _ = next(SyntheticSource().batches(3000, seed=0))
        store_tensors({"synthetic": x_ND}, rows, dtype="float32")
    source, config = StoreSource(rows), parse_config(TrainConfig, CONFIG | {"steps": steps})
    architecture = VanillaSAE(d_in=16, d_sae=32, l0_target=3.0)
    trainer = Trainer(
        architecture, source, config, held_out=source, checkpoint=directory / "state", progress=lambda steps: tell(b"s")
    )
    with torch.no_grad():
        architecture.init._encoder.raw.bias[:6] = -50  # so that there are dead latents
    trainer.train()
    (directory / "sae").mkdir(exist_ok=True)
    save(architecture, directory / "sae", hook_points=["synthetic"], lineage={}, normalizer=trainer.normalizer)
    tell(b"d")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), slow="slow" in sys.argv)
