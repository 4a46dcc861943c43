"""Leases on one disk: a lock on a file, which the kernel frees when the process that has it ends, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from pipeline.stage import WORK


def lease_path(root: Path, key: str) -> Path:
    """The file that whoever works on a key has locked."""
    return root / WORK / "leases" / key[:16]


def is_leased(root: Path, key: str) -> bool:
    """Whether a process works on a key."""
    path = lease_path(root, key)
    if not path.exists():
        return False
    with path.open("a") as file:
        return not locked(file)


def locked(file: IO[str]) -> bool:
    """Lock a file if no other process has it; whether it is locked now. Closing it, or our end, frees it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
