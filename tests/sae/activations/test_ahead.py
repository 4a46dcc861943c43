"""Reading ahead: the same items, made before they are asked for, by a thread that ends with its reader."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sae.activations.ahead import Ahead


def wait_until(what: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    assert what()  # type: ignore[operator]


def test_items_come_in_order_and_end() -> None:
    assert list(Ahead(iter(range(50)), 3)) == list(range(50))


def test_items_are_made_before_they_are_asked_for_but_not_too_many() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = Ahead(items(), 3)
    wait_until(lambda: len(made) == 4)  # three that wait, and one that would
    time.sleep(0.2)
    assert len(made) == 4
    assert next(ahead) == 0
    wait_until(lambda: len(made) == 5)


def test_an_error_is_raised_where_its_item_would_come_and_again() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = Ahead(items(), 3)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(ahead)


def test_the_thread_ends_when_nobody_reads_any_more() -> None:
    before = set(threading.enumerate())
    ahead: Ahead[int] | None = Ahead(iter(range(1000)), 2)
    assert ahead is not None
    assert next(ahead) == 0
    (thread,) = set(threading.enumerate()) - before
    assert thread.is_alive()
    ahead = None
    gc.collect()
    wait_until(lambda: not thread.is_alive())


def test_a_process_that_ends_while_a_thread_reads_ends_well() -> None:
    code = "import torch; from sae.activations.ahead import Ahead\n"
    code += "ahead = Ahead((torch.randn(300, 300) @ torch.randn(300, 300) for _ in range(10**9)), 3); next(ahead)"
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
