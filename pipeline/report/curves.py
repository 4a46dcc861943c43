"""What is known of a training curve by its name: title, meaning, place among the others, scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.axis import Axis, Marker, value_axis
from pipeline.report.data import Curve, RunData
from pipeline.report.formats import number

MAIN_CURVES = 6
_POINTS = 320
_DECADES_FOR_LOG = 1.3


@dataclass(frozen=True)
class CurveKind:
    """How a curve is spoken of. `rank` orders the curves; `logarithmic` allows a logarithmic axis."""

    title: str
    meaning: str
    rank: int
    logarithmic: bool = True


_KINDS = {
    "loss": CurveKind("Loss", "what training minimises", 0),
    "l0": CurveKind("L0", "active latents per token", 1),
    "fvu": CurveKind("FVU", "unexplained variance", 2),
    "dead_latents": CurveKind("Dead latents", "latents that have not fired lately", 3, logarithmic=False),
    "sparsity_coefficient": CurveKind("Sparsity coefficient", "weight of the sparsity penalty", 4),
    "l1": CurveKind("L1", "sum of a token's latents", 6),
    "l2_loss": CurveKind("Reconstruction loss", "mean squared error", 7),
    "sparsity_loss": CurveKind("Sparsity loss", "the penalty, before its coefficient", 8),
    "auxk_loss": CurveKind("AuxK loss", "what dead latents leave of the error", 9),
    "lr": CurveKind("Learning rate", "step size of the optimizer", 5, logarithmic=False),
}
_KINDS["learning_rate"] = _KINDS["lr"]
_UNKNOWN_RANK = 10
_HELD_OUT = "held_out_"


def kind_of(name: str) -> CurveKind:
    """What `name` (``train/l0``) stands for; a name of the user's own is its own title."""
    last = name.rpartition("/")[2]
    known = _KINDS.get(last.lower())
    if known is not None:
        return known
    return CurveKind(last.replace("_", " ").capitalize(), "", _UNKNOWN_RANK)


def in_order(curves: Sequence[Curve]) -> list[tuple[Curve, Curve | None]]:
    """The curves that say most first, the others by name; each with the same figure on held-out activations, if it was logged."""
    by_name = {curve.name: curve for curve in curves}
    held_out = {name: by_name.get(_held_out_name(name)) for name in by_name}
    second = {curve.name for curve in held_out.values() if curve is not None}
    first = sorted((c for c in curves if c.name not in second), key=lambda curve: (kind_of(curve.name).rank, curve.name))
    return [(curve, held_out[curve.name]) for curve in first]


def _held_out_name(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{_HELD_OUT}{last}"


def finite_points(curve: Curve) -> list[tuple[float, float]]:
    """The points of `curve` that can be drawn."""
    return [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]


def wants_log(*curves: Curve) -> bool:
    """Whether the values of curves of one kind are positive and span so much that a linear axis would flatten them."""
    values = [value for curve in curves for _, value in finite_points(curve)]
    if not values or min(values) <= 0 or not kind_of(curves[0].name).logarithmic:
        return False
    return math.log10(max(values) / min(values)) >= _DECADES_FOR_LOG


def step_axis(*curves: Curve) -> Axis:
    """From the start of the training to the last step that was logged."""
    steps = [step for curve in curves for step in curve.steps]
    low, high = min(steps), max(steps)
    return Axis(min(low, 0.0), high) if high > 0 else Axis(low - 1, high + 1)


def curve_axis(*curves: Curve, marker: Marker | None) -> Axis:
    """An axis that holds the values of curves of one kind, with `marker` well inside, so that its label has room."""
    values = [value for curve in curves for _, value in finite_points(curve)]
    return value_axis(values if marker is None else [*values, 0.5 * marker.value, 1.2 * marker.value], wants_log(*curves))


def target_of(curve: Curve, run: RunData) -> Marker | None:
    """What the training steered `curve` to: there is such a value for L0 alone."""
    target = run.l0_target
    if target is None or target <= 0 or curve.name.rpartition("/")[2] != "l0":
        return None
    return Marker(target, f"target {number(target)}")


def segments(curve: Curve) -> list[list[tuple[float, float]]]:
    """The stretches of `curve` between values that are not finite, thinned to what a screen can show.

    Thinning keeps the lowest and the highest point of each bucket, so that no spike is lost.
    """
    stretches: list[list[tuple[float, float]]] = [[]]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if math.isfinite(value):
            stretches[-1].append((step, value))
        elif stretches[-1]:
            stretches.append([])
    size = max(1, math.ceil(2 * len(curve.steps) / _POINTS))
    return [_thin(stretch, size) for stretch in stretches if stretch]


def _thin(points: list[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    if size <= 2:
        return points
    kept = {points[0], points[-1]}
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept |= {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
    return sorted(kept)
