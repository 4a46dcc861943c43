"""In which order the points of a sweep run: what several share comes first, once; then they run side by side, in threads."""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.run_config import RunConfig
from pipeline.sections import read_section
from pipeline.sweeps.plan import Plan, Point
from pipeline.sweeps.point import PointRunner, Stop, Stopping
from pipeline.sweeps.records import Record
from sae.config import Failure, SaeError


def has_accelerator() -> bool:
    """Whether torch may find a GPU here; without importing it, which takes seconds."""
    return platform.system() == "Darwin" or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


class Watcher(Protocol):
    """Whoever wants to know how a sweep goes. Called from several threads, one at a time."""

    def started(self, point: Point, shared: bool) -> None:
        """Work on a point, or on what it shares with others, has begun."""

    def said(self, point: Point, line: str) -> None:
        """A stage printed a line."""

    def retried(self, point: Point, error: SaeError, seconds: float) -> None:
        """It failed, and is tried again in so many seconds."""

    def ended(self, point: Point, result: Record | SaeError) -> None:
        """It is done, or has failed for good."""


class Schedule:
    """The points that are still to run.

    Args:
        plan: of the sweep.
        points: those of it that are to run.
    """

    def __init__(self, plan: Plan, points: Sequence[Point]) -> None:
        self.plan = plan
        self._points = list(points)
        counts = Counter(point.upstream for point in points)
        # What only one point needs it does by itself.
        self._shared = {key: "missing" if count > 1 else "there" for key, count in counts.items()}
        self._errors: dict[str, SaeError] = {}
        self._workers = 1
        self._changed = threading.Condition()

    def run(self, runner: PointRunner, jobs: int, watcher: Watcher) -> dict[int, Record | SaeError]:
        """Run them in so many threads; what became of each, by its index. One that fails leaves the others alone.

        Raises:
            BaseException: what interrupts the main thread; all points are stopped then.
        """
        # Those that wait for the activations help to make them; on a GPU each would hold the model once more.
        settings = read_section(runner.root, "run", RunConfig)
        missing = list(self._shared.values()).count("missing")
        if missing and settings.device in ("auto", "cpu") and not has_accelerator():
            self._workers = max(settings.workers, jobs // missing)
        results: dict[int, Record | SaeError] = {}
        bugs: list[BaseException] = []
        telling = threading.Lock()

        def work(ended: threading.Event) -> None:
            try:
                while (task := self._next(runner.stop)) is not None:
                    point, shared = task
                    with telling:
                        watcher.started(point, shared)
                    result = self._attempt(runner, point, shared, watcher, telling)
                    if shared:
                        self._share_ended(point, result)
                    else:
                        results[point.index] = result
                        with telling:
                            watcher.ended(point, result)
            except Stopping:
                return
            except BaseException as error:  # a bug ends the sweep, with its traceback, in the main thread
                bugs.append(error)
                runner.stop.ask()
            finally:
                ended.set()

        # Not Thread.join: up to Python 3.12, a thread during whose join a signal comes counts as ended while it goes on.
        ends: list[threading.Event] = []
        try:
            for index in range(jobs):
                ended = threading.Event()
                threading.Thread(target=work, args=(ended,), name=f"sweep-{index}").start()
                ends.append(ended)
            for ended in ends:
                while not ended.wait(0.2):  # so that a signal is heard
                    continue
        except BaseException:
            try:
                runner.stop.ask()
            finally:
                for ended in ends:
                    ended.wait()
            raise
        if bugs:
            raise bugs[0]
        return results

    def _attempt(
        self, runner: PointRunner, point: Point, shared: bool, watcher: Watcher, telling: threading.Lock
    ) -> Record | SaeError:
        if (error := self._errors.get(point.upstream)) is not None:
            failure: SaeError = Failure(f"what it shares with others failed: {error}")
            runner.fail(point, failure)
            return failure

        def said(line: str) -> None:
            with telling:
                watcher.said(point, line)

        for attempt in range(self.plan.retries + 1):
            try:
                if shared:
                    runner.share(point, said, self._workers)
                    return Record(point.key, point.name, point.index, point.values, self.plan.id, "shared")
                return runner.run(point, said)
            except (SaeError, OSError) as reason:
                failure = reason if isinstance(reason, SaeError) else Failure(str(reason))
            if failure.exit_code == 2 or attempt == self.plan.retries:  # a user's mistake does not go away
                return failure
            with telling:
                watcher.retried(point, failure, self.plan.retry_delay)
            runner.stop.wait(self.plan.retry_delay)
        raise AssertionError("not reached")

    def _next(self, stop: Stop) -> tuple[Point, bool] | None:
        """What to do next, and whether it is only what the point shares; waits while others do what it needs."""
        with self._changed:
            while True:
                stop.check()
                if not self._points:
                    return None
                for point in self._points:
                    if self._shared[point.upstream] == "missing":
                        self._shared[point.upstream] = "begun"
                        return point, True
                for point in self._points:
                    if self._shared[point.upstream] == "there":
                        self._points.remove(point)
                        return point, False
                self._changed.wait(0.2)

    def _share_ended(self, point: Point, result: Record | SaeError) -> None:
        with self._changed:
            if isinstance(result, SaeError):
                self._errors[point.upstream] = result
            self._shared[point.upstream] = "there"
            self._changed.notify_all()
