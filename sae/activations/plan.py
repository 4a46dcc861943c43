"""What a capture will cost, before it starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from sae.activations.capture import Capture
from sae.config import Failure

SPARE = 100_000_000  # bytes of the disk that a capture leaves alone
PLACE_BYTES = 8


@dataclass(frozen=True)
class Plan:
    """The costs of some captures, of what is left of them.

    Attributes:
        rows: of all stores.
        bytes: of all stores.
        shards: files of all stores.
        disk: bytes that are yet to be written, those of the parts included, which are dropped in the end.
        memory: bytes that the largest part or shard needs while it is made.
        seconds: time expected, from a probe; 0 where nothing is left.
        device_memory: bytes that the probe took on a CUDA device, else None.
    """

    rows: int
    bytes: int
    shards: int
    disk: int
    memory: int
    seconds: float
    device_memory: int | None

    def __str__(self) -> str:
        transient = f", {_size(self.disk)} to write in all with what is dropped again" if self.disk else ""
        device = "" if self.device_memory is None else f", {_size(self.device_memory)} on the device"
        time_left = f"; about {self.seconds:,.0f} s" if self.seconds else ""
        return (
            f"{self.rows:,} rows, {_size(self.bytes)} in {self.shards:,} shards{transient}, "
            f"{_size(self.memory)} of memory{device}{time_left}"
        )

    def check(self, directory: Path) -> None:
        """Refuse what the disk or the memory can't hold.

        Args:
            directory: where the stores are to be.

        Raises:
            Failure: naming what to lower.
        """
        if self.disk and (free := shutil.disk_usage(directory).free - SPARE) < self.disk:
            raise Failure(
                f"the disk has too little room: this capture writes {_size(self.disk)}",
                where=str(directory),
                found=f"{_size(max(free, 0))} free",
                expected="a smaller tokens.train, an activations.dtype of fewer bits, or activations.store: stream",
            )
        if (available := psutil.virtual_memory().available) < self.memory:
            raise Failure(
                f"too little memory: this capture holds {_size(self.memory)} at a time",
                where="activations.shard_mb",
                found=f"{_size(available)} available",
                expected="a smaller one",
            )


def plan(captures: Sequence[Capture], workers: int = 1) -> Plan:
    """The costs of what is left of these captures. Runs two batches through the model.

    Args:
        captures: of all splits.
        workers: processes that share the work; one device each.
    """
    layouts = [capture.layout for capture in captures]
    left = [capture for capture in captures if not capture.finished]
    disk, sequences = 0, 0
    for capture in left:
        written = sum(capture.writer.has_part(part) for part in range(capture.writer.count)) / capture.writer.count
        disk += round(capture.layout.bytes * (2 - written)) + capture.layout.rows * PLACE_BYTES
        sequences += round(len(capture.tokens.tokens_SC) * (1 - written))
    seconds = probe(left[0]) * sequences / workers if sequences else 0.0
    on_cuda = bool(left) and left[0].reader.device.type == "cuda"
    return Plan(
        rows=sum(layout.rows for layout in layouts),
        bytes=sum(layout.bytes for layout in layouts),
        shards=sum(layout.shards for layout in layouts),
        disk=disk,
        memory=max((3 * capture.layout.shard_rows * (capture.layout.row_bytes + PLACE_BYTES) for capture in left), default=0),
        seconds=seconds,
        device_memory=torch.cuda.max_memory_allocated(left[0].reader.device) if on_cuda else None,
    )


def probe(capture: Capture) -> float:
    """Seconds for one sequence, from two batches of the capture's size, the first of which only warms up.

    Raises:
        Failure: the device runs out of memory; the setting to lower is named.
    """
    batches = torch.arange(min(len(capture.tokens.tokens_SC), 2 * capture.config.batch_size)).split(capture.config.batch_size)
    seconds = 0.0
    for batch_S in batches:
        began = time.perf_counter()
        rows = capture.reader.read(batch_S)
        for x in rows.activations.values():
            x.to("cpu")  # waits for the device
        seconds = (time.perf_counter() - began) / len(batch_S)
    return seconds


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit in ("bytes", "kB", "MB") else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
