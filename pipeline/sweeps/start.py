"""How a sweep begins, wherever its points run: what is to do, and the snapshot that they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.sweeps.git import snapshot
from pipeline.sweeps.machines import Machines
from pipeline.sweeps.plan import Plan, Point
from pipeline.sweeps.records import Records


def undone(records: Records, points: Sequence[Point], machines: Machines | None) -> list[Point]:
    """The points that nobody has done, here or on another machine, in this sweep or any before it."""
    left = [point for point in points if not records.is_done(point.key)]
    if machines is None or not left:
        return left
    machines.fetch_records(point.key for point in left)
    return [point for point in left if not records.is_done(point.key)]


def begin(root: Path, plan: Plan, machines: Machines | None) -> Plan:
    """The plan with a snapshot of the project, written down where those who run its points find it."""
    commit, base = snapshot(root, plan.ref)
    plan = replace(plan, commit=commit, base=base)
    plan.save(root)
    if machines is not None:
        machines.publish_plan(plan)
    return plan
