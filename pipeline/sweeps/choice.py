"""Which points of a sweep a user means."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.sweeps.plan import Plan, Point
from sae.config import InputError, nearest_name


def choose_points(plan: Plan, only: Sequence[str] | None) -> list[Point]:
    """The points that `--only` names, by number, by name, or by a name without its hash.

    Raises:
        InputError: there is no such point; the nearest is named.
    """
    if only is None:
        return plan.points
    chosen = []
    for wanted in only:
        named = [point for point in plan.points if wanted in (str(point.index), point.name, point.name.rpartition("-")[0])]
        if not named:
            nearest = nearest_name(wanted, [point.name for point in plan.points])
            expected = f"a number up to {len(plan.points) - 1}, or a name"
            raise InputError("no such point", where="--only", found=wanted, expected=expected, nearest=nearest)
        chosen += named
    return [point for point in plan.points if point in chosen]
