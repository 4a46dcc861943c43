"""Running one point: under a lease, in a clone of its own, through DVC, recorded as an experiment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from pipeline import dvc
from pipeline.process import Process
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.sweeps.git import record_experiment
from pipeline.sweeps.keys import LAST_SHARED, Keys, written_inputs
from pipeline.sweeps.leases import lease_path, locked
from pipeline.sweeps.machines import Machines
from pipeline.sweeps.plan import Plan, Point
from pipeline.sweeps.records import Record, Records, read_metrics, read_outputs
from pipeline.sweeps.workspace import RUNS, Workspace
from sae.config import Failure, SaeError

Stages = list[tuple[str, dvc.Outcome, float]]

POLL = 0.2  # seconds between two looks at a lease that another process has


class Stopping(Exception):
    """The sweep is being stopped; nothing is wrong with the point."""


@dataclass
class Stop:
    """A way to stop points that run in other threads."""

    _asked: threading.Event = field(default_factory=threading.Event)
    _processes: set[Process] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self) -> None:
        """Stop all of them; returns when their processes are gone. An interrupt while waiting kills them."""
        with self._lock:
            self._asked.set()
            processes = list(self._processes)
        threads = [threading.Thread(target=process.stop) for process in processes]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            for process in processes:
                process.kill()
            raise

    def check(self) -> None:
        """Raise `Stopping` if they are to stop."""
        if self._asked.is_set():
            raise Stopping

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until they are to stop."""
        self._asked.wait(seconds)
        self.check()

    def watch(self, process: Process) -> None:
        """A process to stop with them."""
        with self._lock:
            self._processes.add(process)
            late = self._asked.is_set()
        if late:
            process.stop()
            raise Stopping


class PointRunner:
    """Runs points of a sweep for a project.

    Args:
        root: the user's project.
        plan: of the sweep, with its snapshot.
        stop: asked before each step.
        machines: what others share with this one; None if all is on this disk.
    """

    def __init__(self, root: Path, plan: Plan, stop: Stop | None = None, machines: Machines | None = None) -> None:
        self.root, self.plan, self.stop, self.machines = root, plan, stop or Stop(), machines
        self.records = Records(root)

    def run(self, point: Point, on_line: Callable[[str], None] = lambda _: None) -> Record:
        """Run a point from where it is: done, or somewhere in the middle, or untouched.

        Args:
            point: of the plan.
            on_line: called with every line that its stages print.

        Raises:
            StageFailed: a stage failed; its folder is kept, with all unfinished work.
            Failure: what the point is made of is not what it was when the sweep was planned; git failed.
            OSError: such as of a disk that is full.
            Stopping: by `stop`.
        """
        began = time.monotonic()
        with self._lease(point.key, on_line) as lease, self._log(point) as log:
            if (known := self._known(point)) is not None:
                on_line("done already, by another run")
                return known
            workspace = Workspace(self.root, point.key[:16])
            try:
                workspace.make(self.plan.commit, point.values, None if self.machines is None else self.machines.config.dvc)
                with self._checkpoints(workspace, point):
                    stages = self._stages(workspace, point, Keys(workspace.root).order, _both(on_line, log), lease)
                    record = self._keep(workspace, point, stages, began)
            except (SaeError, OSError) as error:
                self.fail(point, error, time.monotonic() - began)
                raise
            workspace.remove()
            return record

    def share(self, point: Point, on_line: Callable[[str], None] = lambda _: None, workers: int = 1) -> None:
        """Run what a point shares with others, up to the activations, into the cache.

        Args:
            point: one of those that share it.
            on_line: as in `run`.
            workers: processes that may capture side by side, since nobody else has anything to do; they change no byte.

        Raises:
            As `run`.
        """
        with self._lease(point.upstream, on_line) as lease, self._log(point) as log:
            if self.machines is None and self.records.is_shared(point.upstream):
                return
            workspace = Workspace(self.root, f"shared-{point.upstream[:16]}")
            values = {**point.values, "run.workers": workers} if workers > 1 else point.values
            workspace.make(self.plan.commit, values, None if self.machines is None else self.machines.config.dvc)
            stages = self._stages(workspace, point, [LAST_SHARED], _both(on_line, log), lease, shared=True)
            if self.machines is not None:
                self.machines.push(workspace)
            self.records.put_shared(point.upstream, _told(stages), read_outputs(workspace.root, Keys(workspace.root).shared)[0])
            workspace.remove()

    def fail(self, point: Point, error: Exception, seconds: float = 0.0) -> None:
        """Write down that a point has failed, unless another run has done it."""
        with suppress(OSError, SaeError):  # on a disk that is full, which may be what the error is about
            if not self.records.is_done(point.key):
                self.records.put(self._record(point, "failed", seconds=seconds, error=str(error)))

    def _known(self, point: Point) -> Record | None:
        """The record of a point that this machine, or another one, has done."""
        if self.records.is_done(point.key):
            return self.records.get(point.key)
        return None if self.machines is None else self.machines.fetch_record(point.key)

    def _checkpoints(self, workspace: Workspace, point: Point) -> AbstractContextManager[None]:
        return nullcontext() if self.machines is None else self.machines.checkpoints(workspace, point.key)

    def _keep(self, workspace: Workspace, point: Point, stages: Stages, began: float) -> Record:
        """Make an experiment of a workspace whose stages have run, and write its record."""
        outputs, size = read_outputs(workspace.root)
        commit = record_experiment(workspace.clone, workspace.repository, self.plan.base, point.name)
        if self.machines is not None:
            self.machines.push(workspace)
        record = self._record(
            point,
            "done",
            stages=_told(stages),
            metrics=read_metrics(workspace.root),
            base=self.plan.base,
            commit=commit,
            outputs=outputs,
            bytes=size,
            remote="" if self.machines is None else self.machines.config.dvc,
            seconds=round(time.monotonic() - began, 2),
        )
        self.records.put(record)
        if self.machines is not None:
            self.machines.publish_record(record)
        return record

    def _stages(
        self,
        workspace: Workspace,
        point: Point,
        targets: Sequence[str],
        on_line: Callable[[str], None],
        lease: int,
        *,
        shared: bool = False,
    ) -> Stages:
        keys = Keys(workspace.root)
        checked = False

        def check(line: str) -> None:
            nonlocal checked
            if not checked and any(f"'{stage}'" in line for stage in keys.order[1:]) and dvc.outcome_of(line):
                checked = True
                self._check_key(workspace, keys, point, shared=shared)
            on_line(line)

        self.stop.check()
        try:
            if self.machines is not None and keys.shared:
                with self.machines.first_time(point.upstream, self.stop.wait) as is_first:
                    if is_first:
                        dvc.run_stages(workspace.root, [LAST_SHARED], check, pull=True, held=[lease], on_start=self.stop.watch)
            done = dvc.run_stages(workspace.root, targets, check, held=[lease], on_start=self.stop.watch)
        except dvc.StageFailed:
            self.stop.check()  # then it was not the stage's fault
            raise
        self.stop.check()
        return done

    def _check_key(self, workspace: Workspace, keys: Keys, point: Point, *, shared: bool) -> None:
        """Refuse a point that is not what was planned: the code, the corpus or the model has changed since."""
        params, inputs = read_yaml(workspace.root / PARAMS_FILE), written_inputs(workspace.root)
        found, planned = (keys.upstream(params, inputs), point.upstream) if shared else (keys.point(params, inputs), point.key)
        if found != planned:
            raise Failure(
                "what this point is made of has changed since the sweep was planned (its corpus, its model, or code that git "
                "ignores); start the sweep again",
                where=point.name,
                found=found[:12],
                expected=planned[:12],
            )

    def _record(self, point: Point, state: str, **more: object) -> Record:
        about = asdict(point)
        about.pop("upstream")
        return Record(**about, sweep=self.plan.id, state=state, **more)  # type: ignore[arg-type]

    @contextmanager
    def _lease(self, key: str, on_line: Callable[[str], None]) -> Iterator[int]:
        """Only one process at a time works on a key. The lease ends with the process that has it, however that ends.

        Yields:
            Its file descriptor. Where a stage's guard has it too, the lease lasts until the stage has ended.
        """
        file = lease_path(self.root, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lease:
            told = False
            while not locked(lease):
                if not told:
                    on_line("another process works on this; waiting for it")
                    told = True
                self.stop.wait(POLL)
            with nullcontext() if self.machines is None else self.machines.lease(key, self.stop.wait, on_line):
                yield lease.fileno()

    @contextmanager
    def _log(self, point: Point) -> Iterator[IO[str]]:
        path = log_path(self.root, self.plan.id, point)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            yield log


def _told(stages: Stages) -> list[tuple[str, str, float]]:
    return [(stage, outcome.value.lower(), round(seconds, 2)) for stage, outcome, seconds in stages]


def log_path(root: Path, sweep: str, point: Point) -> Path:
    """Where all that a point's stages print is kept."""
    return root / RUNS / "sweeps" / sweep / "logs" / f"{point.name}.log"


def _both(on_line: Callable[[str], None], log: IO[str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        print(line, file=log, flush=True)
        on_line(line)

    return write
