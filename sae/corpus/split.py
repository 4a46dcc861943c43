"""The split of documents into training and held-out sets: a pure function of a document's name."""

from __future__ import annotations

import hashlib


def name_fraction(name: str) -> float:
    """A number in [0, 1) that belongs to this name for ever: the first 53 bits of its SHA-256."""
    return (int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 11) / 2**53


def is_held_out(name: str, share: float) -> bool:
    """Whether a document belongs to the held-out set.

    The answer depends on the name alone, so adding, changing or removing documents never moves another one across, and
    a larger share only adds documents to the held-out set.
    """
    return name_fraction(name) < share
