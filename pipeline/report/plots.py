"""Pictures of the run for places that draw no page: a README, ``dvc plots show``.

matplotlib, without its global state and without a display. The bytes depend only on the run: what matplotlib writes beside the
picture (its version, a date) is left out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.report.axis import Axis, count_axis
from pipeline.report.config import ReportConfig
from pipeline.report.curves import MAIN_CURVES, curve_axis, finite_points, in_order, kind_of, step_axis, target_of
from pipeline.report.data import Curve, RunData
from pipeline.report.formats import number, percent, power_of_ten
from pipeline.report.histogram import Histogram
from pipeline.report.markup import printable

_INK, _SOFT, _LINE, _ACCENT, _WARN = "#1d1c1a", "#5e5b55", "#e3e0d9", "#2756c8", "#b23c17"
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,  # a dollar sign in a title is a dollar sign
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}
_DPI = 120
_DASHES = (0, (4, 3))
_COLUMNS = 3


def draw(run: RunData, config: ReportConfig) -> dict[str, bytes]:
    """PNG files by name: ``training``, ``frequency``, ``l0``, and ``summary``, which has it all."""
    pictures: dict[str, Callable[[], Figure]] = {
        "training.png": lambda: _training(run),
        "frequency.png": lambda: _single(lambda axes: _frequency(axes, run)),
        "l0.png": lambda: _single(lambda axes: _l0(axes, run)),
        "summary.png": lambda: _summary(run, config.title),
    }
    with rc_context(_STYLE):
        return {name: _png(picture()) for name, picture in pictures.items()}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _training(run: RunData) -> Figure:
    curves = in_order(run.curves)[:MAIN_CURVES]
    rows = max(1, math.ceil(len(curves) / _COLUMNS))
    figure = Figure(figsize=(12, 3.1 * rows), layout="constrained", facecolor="white")
    if not curves:
        figure.text(0.5, 0.5, "This run logged no curves with DVCLive.", ha="center", va="center", color=_SOFT)
    for index, (curve, held_out) in enumerate(curves):
        _curve(figure.add_subplot(rows, min(_COLUMNS, len(curves)), index + 1), curve, held_out, run)
    return figure


def _single(drawer: Callable[[Axes], None]) -> Figure:
    figure = Figure(figsize=(7.5, 4), layout="constrained", facecolor="white")
    drawer(figure.add_subplot())
    return figure


def _summary(run: RunData, title: str) -> Figure:
    figure = Figure(figsize=(14, 7.6), facecolor="white")
    left, right = 0.045, 0.975
    figure.text(left, 0.945, printable(title), fontsize=20, fontweight="bold", va="center")
    d_in, d_sae = run.sae.get("d_in", "?"), run.sae.get("d_sae", "?")
    hook_points = run.sae.get("hook_points")
    places = ", ".join(map(str, hook_points)) if isinstance(hook_points, list) else ""
    about = " · ".join(part for part in (run.architecture, f"{d_sae} latents for {d_in} dimensions", places) if part)
    figure.text(left, 0.893, printable(about), fontsize=11, color=_SOFT, va="center")
    _headline(figure, run, left, right)
    top = figure.add_gridspec(1, 3, left=left, right=right, top=0.63, bottom=0.385, wspace=0.2)
    for index, (curve, held_out) in enumerate(in_order(run.curves)[:3]):
        axes = figure.add_subplot(top[0, index])
        _curve(axes, curve, held_out, run)
        axes.set_xlabel("")
    bottom = figure.add_gridspec(1, 2, left=left, right=right, top=0.285, bottom=0.075, wspace=0.13)
    _frequency(figure.add_subplot(bottom[0, 0]), run)
    _l0(figure.add_subplot(bottom[0, 1]), run)
    return figure


def _headline(figure: Figure, run: RunData, left: float, right: float) -> None:
    target = f"target {number(run.l0_target)}" if run.l0_target is not None else "active latents per token"
    pca = run.metric("pca.fvu")
    baseline = (
        f"PCA with {number(run.metric('pca.components'))} components: {number(pca)}"
        if pca is not None
        else "unexplained variance"
    )
    mean = run.metric("loss.recovered_mean")
    against = "against zero ablation" + (f"; mean: {percent(mean)}" if mean is not None else "")
    share = run.metric("dead_share")
    cells = [
        ("L0", number(run.metric("l0")), target),
        ("FVU", number(run.metric("fvu")), baseline),
        ("Loss recovered", percent(run.metric("loss.recovered_zero")), against),
        ("Dead latents", number(run.metric("dead_latents")), f"{percent(share)} of all" if share is not None else ""),
        ("Tokens", number(run.metric("tokens")), "held out"),
    ]
    if run.metric("loss.original") is None:  # a model without a head predicts nothing
        cells = [cell for cell in cells if cell[0] != "Loss recovered"]
    width = (right - left) / len(cells)
    for index, (name, value, note) in enumerate(cells):
        x = left + index * width
        figure.text(x, 0.828, name, fontsize=10, color=_SOFT, va="center")
        figure.text(x, 0.778, value, fontsize=23, fontweight="bold", color=_ACCENT, va="center")
        figure.text(x, 0.73, note, fontsize=9, color=_SOFT, va="center")


def _curve(axes: Axes, curve: Curve, held_out: Curve | None, run: RunData) -> None:
    axes.set_title(printable(kind_of(curve.name).title))
    axes.set_xlabel("step")
    points = finite_points(curve)
    if not points:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=_SOFT)
        return
    steps, values = (list(column) for column in zip(*points, strict=True))
    axes.plot(steps, values, color=_ACCENT, marker="o" if len(points) == 1 else "")
    beside = finite_points(held_out) if held_out is not None else []
    if beside:
        axes.plot(*zip(*beside, strict=True), color=_INK, linewidth=1.2, marker="o" if len(beside) == 1 else "")
        axes.set_title(f"held out {number(beside[-1][1])}", loc="right", color=_INK, fontsize=9, fontweight="normal")
    target = target_of(curve, run)
    if target is not None:
        axes.axhline(target.value, color=_WARN, linewidth=1.1, linestyle=_DASHES)
        place = ("axes fraction", "data")
        axes.annotate(
            target.label, (1, target.value), (0, -4), place, "offset points", ha="right", va="top", fontsize=9, color=_WARN
        )
    both = [curve] if held_out is None else [curve, held_out]
    across, up = step_axis(*both), curve_axis(*both, marker=target)
    axes.set_xlim(across.low, across.high)
    axes.set_xticks(across.round_values(5), [text for _, text in across.ticks(5)])
    _scale(axes, up)


def _frequency(axes: Axes, run: RunData) -> None:
    edges = run.frequency.edges
    _bars(axes, run.frequency)
    span = edges[-1] - edges[0]
    never_at = edges[0] - 0.09 * span
    axes.bar(never_at, run.never, width=0.05 * span, color=_WARN)
    exponents = list(range(math.ceil(edges[0]), math.floor(edges[-1]) + 1))
    axes.set_xlim(never_at - 0.04 * span, edges[-1])
    axes.set_xticks([never_at, *exponents], ["never", *map(power_of_ten, exponents)])
    axes.set_title("Latents by how often they fire")
    axes.set_xlabel("share of tokens")
    _scale(axes, count_axis([*run.frequency.counts, run.never]))


def _l0(axes: Axes, run: RunData) -> None:
    body, _ = run.l0.without_tail()
    _bars(axes, body)
    mean = run.metric("l0")
    if mean is not None and body.edges[0] <= mean <= body.edges[-1]:
        axes.plot(mean, 1.03, marker="v", markersize=6, color=_WARN, transform=axes.get_xaxis_transform(), clip_on=False)
        axes.set_title(f"mean {number(mean)}", loc="right", color=_WARN, fontsize=9, fontweight="normal")
    across = Axis(body.edges[0], body.edges[-1])
    axes.set_xlim(across.low, across.high)
    axes.set_xticks(across.round_values(7), [text for _, text in across.ticks(7)])
    axes.set_title("Tokens by how many latents are active")
    axes.set_xlabel("active latents")
    _scale(axes, count_axis(body.counts))


def _bars(axes: Axes, histogram: Histogram) -> None:
    widths = [0.9 * (high - low) for low, high, _ in histogram.bins()]
    axes.bar(histogram.edges[:-1], histogram.counts, width=widths, align="edge", color=_ACCENT, linewidth=0)


def _scale(axes: Axes, scale: Axis) -> None:
    """Scale and labels of the values, as the page has them."""
    if scale.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(scale.low, scale.high)
    axes.set_yticks(scale.round_values(5), [text for _, text in scale.ticks(5)])
