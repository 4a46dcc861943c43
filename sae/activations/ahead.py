"""Reading ahead: an iterator's next items are made in a thread of their own."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


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
        self._shelf: _Shelf[T] = _Shelf(depth)
        thread = threading.Thread(target=_make, args=(items, self._shelf), name="reading ahead", daemon=True)
        # Also at the end of the process, and waited for: a thread that is cut off within torch would abort it.
        weakref.finalize(self, _end, self._shelf, thread)
        thread.start()

    def __next__(self) -> T:
        return self._shelf.take()


class _Shelf(Generic[T]):
    """What is made and not yet taken."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.changed = threading.Condition()
        self.unwanted = False
        self.items: deque[T] = deque()
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room; returns whether more is wanted."""
        with self.changed:
            self.changed.wait_for(lambda: self.unwanted or len(self.items) < self.depth)
            self.items.append(item)
            self.changed.notify_all()
            return not self.unwanted

    def fail(self, error: BaseException) -> None:
        """There is no other item, for this reason."""
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def take(self) -> T:
        """Wait for the next item; the error if there is none."""
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.error is not None)
            if not self.items:
                assert self.error is not None
                raise self.error  # whoever asks again gets the same
            item = self.items.popleft()
            self.changed.notify_all()
            return item

    def abandon(self) -> None:
        """Nobody takes any more."""
        with self.changed:
            self.unwanted = True
            self.changed.notify_all()


def _make(items: Iterator[T], shelf: _Shelf[T]) -> None:
    try:
        for item in items:
            if not shelf.put(item):
                return
        shelf.fail(StopIteration())
    except BaseException as error:  # all of them: it is raised again where the item is asked for
        shelf.fail(error)


def _end(shelf: _Shelf[T], thread: threading.Thread) -> None:
    shelf.abandon()
    if thread is not threading.current_thread():
        thread.join()
