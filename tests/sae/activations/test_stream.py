"""A stream: the rows that a store would hold, every one once an epoch, from any batch on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae.activations.capture import ActivationsConfig, capture
from sae.activations.loader import StoreSource
from sae.activations.stream import StreamSource
from sae.architectures.topk import TopKSAE
from sae.config import InputError, parse_config
from sae.training.config import TrainConfig
from sae.training.trainer import Stopped, Trainer
from tests.sae.activations.test_capture import MODEL, POINTS, tokens

ROWS = int((~tokens().special_SC).sum())


def stream(hook_points: Any = None, target: Any = None, **more: Any) -> StreamSource:
    section = {"hook_points": POINTS, "dtype": "float32", "batch_size": 4, "store": "stream", "mix_rows": 50} | more
    return StreamSource(MODEL, tokens(), parse_config(ActivationsConfig, section), hook_points, target)


def take(source: Any, count: int, batch_size: int, seed: int = 0, start: int = 0) -> list[Tensor]:
    return [x_BD for x_BD, _ in islice(source.batches(batch_size, seed=seed, start=start), count)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("mix_rows", [1, 50, 10_000])
def test_an_epoch_holds_the_rows_of_the_store_once(dtype: str, mix_rows: int, tmp_path: Path) -> None:
    config = parse_config(ActivationsConfig, {"hook_points": POINTS, "dtype": dtype, "batch_size": 4})
    capture(MODEL, tokens(), config, tmp_path, split="train", inputs={})
    stored = torch.cat(take(StoreSource(tmp_path, POINTS), 1, ROWS))
    source = stream(POINTS, dtype=dtype, mix_rows=mix_rows)
    assert source.rows == ROWS
    for epoch in range(2):
        streamed = torch.cat(take(source, 1, ROWS, start=epoch))
        distances_NN = torch.cdist(streamed, stored)
        distance_N = distances_NN[linear_sum_assignment(distances_NN)]  # one to one
        # The last bits of the forward pass may differ, and so the rounding to the stored type.
        assert (distance_N <= (2e-2 if dtype == "int8" else 2e-3) * torch.linalg.vector_norm(streamed, dim=1)).all()


@pytest.mark.parametrize("batch_size", [7, 50, 200])
def test_starting_later_is_skipping_batches(batch_size: int) -> None:
    whole = take(stream(), 12, batch_size)
    for start in (1, 5, 9):
        begun = take(stream(), 3, batch_size, start=start)
        # A buffer is filled anew by the same forward passes, so the bits are the same.
        assert all(torch.equal(a, b) for a, b in zip(begun, whole[start : start + 3], strict=True))


def test_only_the_buffer_of_the_cursor_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = stream(mix_rows=20)
    read: list[int] = []
    fill = source._fill
    monkeypatch.setattr(source, "_fill", lambda sequences_S: read.append(len(sequences_S)) or fill(sequences_S))
    take(source, 1, 10, start=ROWS // 10 - 1)
    assert sum(read) <= 6  # of 23 sequences of eight or fewer rows each


def test_batches_mix_sequences_and_epochs_differ() -> None:
    source = stream(mix_rows=10_000)
    first, second = (torch.cat(take(source, 1, ROWS, start=epoch)) for epoch in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(take(source, 1, ROWS, seed=1)))


def test_hook_points_are_chosen_as_from_a_store() -> None:
    for x_BD, y_BD in islice(stream([POINTS[1]], POINTS).batches(16, seed=0), 12):
        assert torch.equal(y_BD[:, 16:], x_BD)
    assert all(x is y for x, y in islice(stream().batches(16, seed=0), 12))
    assert stream(["model.layers.?"]).hook_points == POINTS[:1]
    with pytest.raises(InputError, match=r"sae\.hook_points: .*not among those of activations\.hook_points"):
        stream(["model.layers.7"])


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = TrainConfig(steps=12, batch_size=16, l0_target=2, log_every=4, checkpoint_every=5)

    def trainer(checkpoint: Path, steps: int | None = None) -> Trainer:
        asked = iter(range(100))
        stop = (lambda: next(asked) >= steps) if steps is not None else (lambda: False)
        architecture = TopKSAE(d_in=16, d_sae=32, l0_target=2)
        return Trainer(architecture, stream(), config, checkpoint=checkpoint, stop=stop)

    whole = trainer(tmp_path / "whole")
    whole.train()
    with pytest.raises(Stopped):
        trainer(tmp_path / "stopped", steps=7).train()
    resumed = trainer(tmp_path / "stopped")
    resumed.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.trainable.parameters(), resumed.trainable.parameters(), strict=True))
