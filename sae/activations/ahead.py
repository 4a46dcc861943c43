"""Reading ahead: an iterator's next items are made in a thread of their own."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
POLL = 0.1  # seconds between two looks at whether anyone still wants items


class Ahead(Iterator[T], Generic[T]):
    """The same items in the same order, up to `depth` of them made before they are asked for.

    The thread ends with the iterator, with its first error, which is raised at that item's place, or when nobody holds
    this object any more. What makes the items should leave Python's lock to others most of the time, as reading and
    copying do.

    Args:
        items: where they come from; nobody else may use it.
        depth: how many wait at most.
    """

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        unwanted = threading.Event()
        weakref.finalize(self, unwanted.set)
        threading.Thread(target=_make, args=(items, self._queue, unwanted), name="reading ahead", daemon=True).start()

    def __next__(self) -> T:
        item, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))  # whoever asks again gets the same
            raise error
        return item  # type: ignore[return-value]  # there is one where there is no error


def _make(items: Iterator[T], ready: queue.Queue[tuple[T | None, BaseException | None]], unwanted: threading.Event) -> None:
    while True:
        try:
            made: tuple[T | None, BaseException | None] = (next(items), None)
        except BaseException as error:  # all of them: it is raised again where the item is asked for
            made = (None, error)
        while not unwanted.is_set():
            try:
                ready.put(made, timeout=POLL)
                break
            except queue.Full:
                continue
        if unwanted.is_set() or made[1] is not None:
            return
