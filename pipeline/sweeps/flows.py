"""The flows `sweep` and `point`: a sweep's points as runs of a deployment, which agents take up.

The flow `sweep` plans, starts a run for each point that is not done, watches them, and draws the results. It needs no slot
of the pool that its points run in. What counts is on the disk, in records: the server's own account may be lost.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelling, Completed, Crashed, Failed, Scheduled

from pipeline.dvc import is_chatter
from pipeline.progress import SECONDS_BETWEEN_LINES, share_done
from pipeline.project import find_root
from pipeline.run_config import RemoteConfig
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.sweeps.choice import choose_points
from pipeline.sweeps.leases import is_leased
from pipeline.sweeps.machines import STALE, Machines, machines_of
from pipeline.sweeps.plan import Plan, Point, load_plan, make_plan, plan_path, short_names, swept_paths
from pipeline.sweeps.point import PointRunner
from pipeline.sweeps.records import Records
from pipeline.sweeps.start import begin, undone
from pipeline.sweeps.table import FIGURES, Table, figures_text, save_results, table_of
from pipeline.sweeps.workspace import RUNS
from pipeline.terminal import shown
from sae.config import Failure, InputError, SaeError
from sae.sweeps import SweepConfig

POLL = 2.0  # seconds between two looks at the points' states
LOST_AFTER = 30.0  # seconds in which a run has no lease, though the server has it running, until it counts as lost
LOOK_EVERY = 10.0  # seconds between two looks at the leases of other machines
MISTAKE = "Mistake"  # state of a point that it makes no sense to try again


@flow(name="point")
def point(sweep: str, index: int, key: str, shared: bool = False, remote: RemoteConfig | None = None) -> State[Any]:
    """Run one point of a sweep in a clone of its own, from where it is. Started by the flow `sweep`.

    Args:
        sweep: Id of the sweep.
        index: Number of the point in it.
        key: Hash of all that the point is made of; another one here is refused.
        shared: Only what the point shares with others: the stages up to the activations.
        remote: What the machines have in common; left out where they have a disk in common.
    """
    logger = get_run_logger()
    try:
        root = find_root(Path.cwd())
        machines = None if remote is None else Machines(root, remote)
        if machines is not None and not plan_path(root, sweep).exists():
            machines.fetch_plan(sweep)
        plan = load_plan(root, sweep)
        chosen = plan.points[index] if index < len(plan.points) else None
        if chosen is None or chosen.key != key:
            found = "no such point" if chosen is None else chosen.key[:12]
            raise InputError("this is not the point that was planned", where=f"point {index} of sweep {sweep}", found=found,
                             expected=key[:12])  # fmt: skip
        logger.info("%s on %s, CUDA_VISIBLE_DEVICES=%s", chosen.name, os.uname().nodename, os.environ.get("CUDA_VISIBLE_DEVICES"))
        runner = PointRunner(root, plan, machines=machines)

        logged = -math.inf

        def log(line: str) -> None:
            nonlocal logged
            if is_chatter(line):
                return
            if share_done(line) is not None:
                if time.monotonic() - logged < SECONDS_BETWEEN_LINES:
                    return
                logged = time.monotonic()
            logger.info("%s", line, extra=shown(chosen.name))

        if shared:
            runner.share(chosen, log)
            return Completed(message="the activations are there")
        record = runner.run(chosen, log)
    except SaeError as error:
        return Failed(name=MISTAKE if error.exit_code == 2 else "Failed", message=str(error), data=error)
    return Completed(message=f"done in {record.seconds:.0f} s: {figures_text(record)}")


def stop_points(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the points of a sweep that was cancelled or has crashed."""
    with get_client(sync_client=True) as client:
        ours = FlowRunFilter.model_validate({"tags": {"all_": [_tag(flow_run.id)]}})
        children: list[FlowRun] = []
        while page := client.read_flow_runs(flow_run_filter=ours, limit=100, offset=len(children)):  # 200 at most come at once
            children += page
        for child in children:
            if child.state is not None and not child.state.is_final():
                client.set_flow_run_state(child.id, Cancelling(message="its sweep has ended"))


@flow(name="sweep", on_cancellation=[stop_points], on_crashed=[stop_points])
def sweep(sweep: SweepConfig | None = None, only: list[str] | None = None, limit: int | None = None) -> State[Any]:
    """Run the points of a sweep side by side on the agents of the pool `gpu`. Points that are done are not done again.

    Args:
        sweep: What to vary; the section `sweep` of params.yaml if left out.
        only: Only these points, by number or name.
        limit: At most so many of the points that are to do.
    """
    try:
        root = find_root(Path.cwd())
        sys.path.insert(0, str(root))
        params = read_yaml(root / PARAMS_FILE)  # now, because a user may be in the middle of an edit when the sweep ends
        plan = make_plan(root, sweep)
        points = choose_points(plan, only or None)
        machines = machines_of(root)
    except SaeError as error:
        return Failed(message=str(error), data=error)
    todo = undone(Records(root), points, machines)[:limit]
    logger = get_run_logger()
    logger.info("sweep %s: %d points, %d to do", plan.id, len(points), len(todo), extra=shown())
    failed: dict[int, str] = {}
    if todo:
        plan = begin(root, plan, machines)
        failed = Watch(root, plan, todo, machines).until_all_ended()
    _publish(root, plan, points, params)
    if failed:
        names = "; ".join(f"{p.name}: {failed[p.index]}" for p in todo if p.index in failed)
        return Failed(message=f"{len(failed)} of {len(todo)} points failed: {names}")
    return Completed(message=f"{len(points)} points, {len(todo)} of them done now")


@dataclass
class Child:
    """A run of the flow `point` that a sweep waits for.

    Attributes:
        point: which; of its shared part if `shared`.
        run: its id.
        attempts: how often it was tried.
        unleased: since when it was running, for the server, without a lease.
    """

    point: Point
    shared: bool
    run: UUID
    attempts: int = 1
    unleased: float | None = None

    @property
    def key(self) -> str:
        """What it works on."""
        return self.point.upstream if self.shared else self.point.key


@dataclass
class Watch:
    """Starts the runs of a sweep and follows them until all have ended.

    Attributes:
        root: the project.
        plan: of the sweep.
        todo: the points to run.
        machines: what the machines have in common, if that is not a disk.
    """

    root: Path
    plan: Plan
    todo: Sequence[Point]
    machines: Machines | None = None
    children: list[Child] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    waiting: list[Point] = field(default_factory=list)
    done: int = 0
    beats: dict[str, tuple[str, float]] = field(default_factory=dict)  # by key, a lease's last beat and when it was first seen
    looked: float = 0.0

    def until_all_ended(self) -> dict[int, str]:
        """What went wrong, by index of the points that failed."""
        self.names = short_names(swept_paths(self.plan.points))
        by_upstream: dict[str, list[Point]] = {}
        for p in self.todo:
            by_upstream.setdefault(p.upstream, []).append(p)
        progress = cast(
            UUID, create_progress_artifact(0.0, key=f"sweep-{self.plan.id}-progress", description="Points that ended")
        )
        told = 0
        with get_client(sync_client=True) as client:
            for group in by_upstream.values():
                if len(group) > 1:
                    self._start(group[0], shared=True)
                    self.waiting += group
                else:
                    self._start(group[0], shared=False)
            while self.children or self.waiting:
                time.sleep(POLL)
                try:
                    self._look(client)
                    if self.done > told:
                        update_progress_artifact(progress, 100.0 * self.done / len(self.todo))
                        told = self.done
                except httpx.TransportError:  # the server is away; the points go on, and what they do is on the disk
                    continue
        return self.failed

    def _start(self, p: Point, *, shared: bool) -> None:
        values = [f"{self.names[path]}={p.values[path]}" for path in self.names if path in p.values]
        run = cast(
            FlowRun,
            run_deployment(
                "point/point",
                parameters={
                    "sweep": self.plan.id,
                    "index": p.index,
                    "key": p.key,
                    "shared": shared,
                    "remote": None if self.machines is None else self.machines.config.model_dump(),
                },
                timeout=0,
                flow_run_name=f"shared-{p.upstream[:6]}" if shared else p.name,
                tags=[_tag(this_run.id), f"sweep-{self.plan.id}", *([] if shared else values)],
                idempotency_key=f"{this_run.id}:{p.upstream if shared else p.key}",
            ),
        )
        self.children.append(Child(p, shared, run.id))

    def _look(self, client: SyncPrefectClient) -> None:
        """Read the states, and do what follows from them."""
        states = _states(client, [child.run for child in self.children])
        for child in list(self.children):
            state = states.get(child.run)
            if state is None:
                continue
            if state.is_running() and self._is_lost(child):
                state = Crashed(message="the agent that ran it is gone")
                client.set_flow_run_state(child.run, state, force=True)
            if not state.is_final():
                continue
            self._ended(client, child, state)

    def _ended(self, client: SyncPrefectClient, child: Child, state: State[Any]) -> None:
        logger = get_run_logger()
        if not state.is_completed() and not child.shared and Records(self.root).is_done(child.key):
            state = Completed(message="done; whoever ran it did not come to say so")
        again = (state.is_failed() or state.is_crashed()) and state.name != MISTAKE and child.attempts <= self.plan.retries
        if again:
            at = datetime.now(UTC) + timedelta(seconds=self.plan.retry_delay)
            client.set_flow_run_state(child.run, Scheduled(scheduled_time=at, name="AwaitingRetry"), force=True)
            child.attempts, child.unleased = child.attempts + 1, None
            logger.warning("%s: %s; again in %g s", child.point.name, state.message, self.plan.retry_delay, extra=shown())
            return
        error = None if state.is_completed() else f"{(state.name or '').lower()}: {state.message or 'no reason is known'}"
        if child.shared:
            group = [p for p in self.waiting if p.upstream == child.point.upstream]
            for p in group if error is None else ():
                self._start(p, shared=False)  # if the server goes away meanwhile, the next look goes on from here
                self.waiting.remove(p)
            self.children.remove(child)
            if error is None:
                return
            self.waiting = [p for p in self.waiting if p not in group]
            runner = PointRunner(self.root, self.plan)
            for p in group:
                self.failed[p.index] = f"what it shares with others: {error}"
                runner.fail(p, Failure(self.failed[p.index]))
            self.done += len(group)
        else:
            self.children.remove(child)
            self.done += 1
            if error is None and self.machines is not None:
                self.machines.fetch_record(child.key)
            if error is not None:
                self.failed[child.point.index] = error
        logger.info("%s: %s (%d of %d)", child.point.name, error or state.message, self.done, len(self.todo), extra=shown())

    def _is_lost(self, child: Child) -> bool:
        """Whether a run has had no lease for a while: its process is gone, and so is who would have said it."""
        if self._is_leased(child):
            child.unleased = None
            return False
        child.unleased = child.unleased or time.monotonic()
        return time.monotonic() - child.unleased > LOST_AFTER

    def _is_leased(self, child: Child) -> bool:
        if is_leased(self.root, child.key):
            return True
        if self.machines is None:
            return False
        if time.monotonic() - self.looked > LOOK_EVERY:
            self.looked = time.monotonic()
            now = self.machines.leases()
            self.beats = {
                key: self.beats[key] if key in self.beats and self.beats[key][0] == beat else (beat, self.looked)
                for key, beat in now.items()
            }
        beat = self.beats.get(child.key)
        return beat is not None and time.monotonic() - beat[1] < STALE


def _publish(root: Path, plan: Plan, points: Sequence[Point], params: Mapping[str, Any]) -> Table:
    """The table and the fronts, on the disk and as artifacts."""
    import base64

    table = table_of(root, points, params)
    folder = root / RUNS / "sweeps" / plan.id
    save_results(table, folder)
    rows = []
    for row, marks in zip(table.rows, table.marks(), strict=True):
        rounded = {name: float(f"{row[name]:.4g}") for name in FIGURES if row[name] is not None}  # the page shows all digits
        rows.append({**{k: v for k, v in row.items() if k not in ("metrics", "base", "commit")}, **rounded, "front": marks})
    create_table_artifact(rows, key=f"sweep-{plan.id}-table", description=f"Points of sweep {plan.id}")
    picture = base64.b64encode((folder / "fronts.png").read_bytes()).decode()
    text = f"# Sweep {plan.id}\n\n![L0 against FVU, and against the loss recovered](data:image/png;base64,{picture})\n"
    create_markdown_artifact(text, key=f"sweep-{plan.id}-fronts", description="L0 against FVU, and against the loss recovered")
    get_run_logger().info("%s", table.text(), extra=shown())
    return table


def _states(client: SyncPrefectClient, runs: Sequence[UUID]) -> dict[UUID, State[Any]]:
    states: dict[UUID, State[Any]] = {}
    for start in range(0, len(runs), 100):
        wanted = [str(run) for run in runs[start : start + 100]]
        found: Iterable[FlowRun] = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": wanted}}), limit=100
        )
        states |= {run.id: run.state for run in found if run.state is not None}
    return states


def _tag(run: object) -> str:
    return f"of-{run}"
