"""Random numbers by name: every consumer derives its own stream from one seed, so that none disturbs another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the consumer called `names`: SHA-256 of the run's seed and the names."""
    text = "/".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str, device: str = "cpu") -> torch.Generator:
    """A torch generator of its own for the consumer called `names`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_global_rng(seed: int, *names: str) -> Iterator[None]:
    """Run a block under a forked, seeded global generator.

    torch's own initialisers and dropout use the global generator; inside this block they draw from a stream named by
    `names`, and the state outside is as it was before.
    """
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):  # given the devices, it warns of no others
        torch.manual_seed(derive_seed(seed, *names))
        yield
