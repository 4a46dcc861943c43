"""Charts as inline SVG. The drawing stretches with the page; labels are HTML beside it, so that text keeps its size.

Each chart is complete without a script. With one, ``data-hover`` lets it show the value under the pointer: places ``x`` and
``y`` (0 to 1) and texts ``t``, composed here, so that numbers are written in one way only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from pipeline.report.axis import Axis, Marker, count_axis
from pipeline.report.curves import curve_axis, finite_points, kind_of, segments, step_axis
from pipeline.report.data import Curve
from pipeline.report.formats import number, percent, power_of_ten
from pipeline.report.histogram import Histogram
from pipeline.report.markup import Child, Html, el

_SIZE = 1000  # units of the drawing in both directions; the page gives it its shape
_NEVER_WIDTH = 0.08  # of a histogram's width, for the bar of what never fires
_NEVER_GAP = 0.1  # on a phone, "never" and the label after it need this much
_LEAST_HEIGHT = 8  # of a bar that counts anything: one latent of thousands is to be seen

Ticks = Sequence[tuple[float, str]]


def curve_chart(curve: Curve, marker: Marker | None = None, held_out: Curve | None = None) -> Html:
    """A training curve as a figure: title, last value, line, axes.

    Args:
        curve: of the training.
        marker: a value to show across.
        held_out: the same figure on held-out activations.
    """
    kind = kind_of(curve.name)
    both = [curve] if held_out is None else [curve, held_out]
    points = finite_points(curve)
    last = number(curve.values[-1]) if curve.values else "–"
    about: list[Child] = [kind.meaning or curve.name]
    if held_out is not None and held_out.values:
        about.append(el("span", f"held out {number(held_out.values[-1])}", class_="held-out-key"))
    head = el("figcaption", el("h3", kind.title), el("span", last, class_="now"), el("span", about, class_="about"))
    if not points:
        return el("figure", head, el("p", "No finite value was logged.", class_="empty"), class_="chart", data_curve=curve.name)
    y_axis, x_axis = curve_axis(*both, marker=marker), step_axis(*both)
    drawn = segments(curve)
    lines = [_curve_line(stretch, x_axis, y_axis, "curve") for stretch in drawn]
    beside: dict[float, float] = {}
    if held_out is not None:
        lines += [_curve_line(stretch, x_axis, y_axis, "curve held-out") for stretch in segments(held_out)]
        beside = dict(finite_points(held_out))
    marks, notes = _marker_line(marker, y_axis) if marker else (Html(), Html())
    hover = []
    for x, y in (point for stretch in drawn for point in stretch):
        more = f", held out {number(beside[x], 4)}" if x in beside else ""
        hover.append((x_axis.at(x), y_axis.at(y), f"step {number(x)}: {number(y, 4)}{more}"))
    values = [value for _, value in points]
    summary = (
        f"{kind.title} over {number(curve.steps[-1])} training steps: first {number(values[0])}, last {number(values[-1])}, "
        f"lowest {number(min(values))}, highest {number(max(values))}"
    )
    if held_out is not None and held_out.values:
        summary += f"; on held-out activations last {number(held_out.values[-1])}"
    plot = _plot([marks, *lines], x_axis.ticks(5), y_axis.ticks(5), hover, summary, notes)
    x_title = el("p", "step" + (" · logarithmic scale" if y_axis.log else ""), class_="x-title")
    return el("figure", head, plot, x_title, class_="chart", data_curve=curve.name)


def _curve_line(stretch: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis, class_: str) -> Html:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in stretch]
    return el("path", d=_path(places), class_=class_, vector_effect="non-scaling-stroke")


def frequency_chart(histogram: Histogram, never: int) -> Html:
    """How many latents fire on which share of tokens, over powers of ten; those that never fire stand apart."""
    start = _NEVER_WIDTH + _NEVER_GAP
    axis = Axis(histogram.edges[0], histogram.edges[-1])

    def place(exponent: float) -> float:
        return start + (1 - start) * axis.at(exponent)

    bars = [
        (place(low), place(high), count, f"{number(count)} latents fire on {percent(10**low)} to {percent(10**high)} of tokens")
        for low, high, count in histogram.bins()
    ]
    bars.insert(0, (0.0, _NEVER_WIDTH, never, f"{number(never)} latents never fire"))
    exponents = range(math.ceil(axis.low - 1e-9), math.floor(axis.high + 1e-9) + 1)
    ticks = [(_NEVER_WIDTH / 2, "never"), *((place(exponent), power_of_ten(exponent)) for exponent in exponents)]
    summary = f"{number(histogram.total + never)} latents in all, by the share of tokens they fire on; {number(never)} never fire"
    return _bar_figure(bars, ticks, summary, "share of tokens on which a latent fires", "latents", first="never")


def l0_chart(histogram: Histogram, mean: float | None) -> Html:
    """How many tokens have how many active latents, with the mean; a thin tail is told, not drawn."""
    body, beyond = histogram.without_tail()
    axis = Axis(body.edges[0], body.edges[-1])
    bars = [
        (axis.at(low), axis.at(high), count, f"{number(count)} tokens with {_between(low, high)} active latents")
        for low, high, count in body.bins()
    ]
    marker = Marker(mean, f"mean {number(mean)}") if mean is not None and axis.low <= mean <= axis.high else None
    summary = f"{number(histogram.total)} tokens by their number of active latents; the mean is {number(mean)}"
    more = f" · {number(beyond)} tokens have more than {number(math.floor(axis.high))}" if beyond else ""
    return _bar_figure(bars, axis.ticks(7), summary, "active latents on a token" + more, "tokens", x_marker=marker, x_axis=axis)


def comparison(rows: Sequence[tuple[str, float, str]], full: float) -> Html:
    """Values side by side as labelled horizontal bars; a bar across the whole width stands for `full`."""
    lines = []
    for label, value, class_ in rows:
        share = min(max(value / full, 0.0), 1.0) if full > 0 and math.isfinite(value) else 0.0
        bar = el("span", el("span", style=f"width:{100 * share:.1f}%", class_=f"fill {class_}".strip()), class_="track")
        lines.append(el("div", el("dt", label), el("dd", bar, el("span", number(value), class_="value"))))
    return el("dl", lines, class_="comparison")


def _bar_figure(
    bars: Sequence[tuple[float, float, float, str]],
    x_ticks: Ticks,
    summary: str,
    x_title: str,
    y_title: str,
    first: str = "",
    x_marker: Marker | None = None,
    x_axis: Axis | None = None,
) -> Html:
    y_axis = count_axis(count for _, _, count, _ in bars)
    drawn: list[Child] = []
    for index, (left, right, count, text) in enumerate(bars):
        height = max(_SIZE * y_axis.at(count), _LEAST_HEIGHT if count > 0 else 0)
        gap = 0.1 * (right - left)
        drawn.append(
            el(
                "rect",
                el("title", text),
                x=f"{_SIZE * (left + gap / 2):.1f}",
                y=f"{_SIZE - height:.1f}",
                width=f"{_SIZE * (right - left - gap):.1f}",
                height=f"{height:.1f}",
                class_=f"bar {first}" if first and index == 0 else "bar",
            )
        )
    notes = Html()
    if x_marker is not None and x_axis is not None:
        place = x_axis.at(x_marker.value)
        notes = el(
            "span", x_marker.label, class_="note at-top" + (" end" if place > 0.85 else ""), style=f"left:{100 * place:.2f}%"
        )
    hover = [((left + right) / 2, y_axis.at(count), text) for left, right, count, text in bars]
    plot = _plot(drawn, x_ticks, y_axis.ticks(5), hover, summary, notes)
    return el("figure", el("p", y_title, class_="y-title"), plot, el("p", x_title, class_="x-title"), class_="chart wide")


def _plot(
    body: Child, x_ticks: Ticks, y_ticks: Ticks, hover: Sequence[tuple[float, float, str]], summary: str, notes: Html
) -> Html:
    grid = [_line(0, place, 1, place, "grid") for place, _ in y_ticks]
    drawing = el(
        "svg", grid, body, viewBox=f"0 0 {_SIZE} {_SIZE}", preserveAspectRatio="none", aria_hidden="true", focusable="false"
    )
    y_labels = [el("span", text, style=f"bottom:{100 * place:.2f}%") for place, text in y_ticks]
    x_labels = [el("span", text, style=f"left:{100 * place:.2f}%") for place, text in x_ticks]
    data = {
        "x": [round(x, 4) for x, _, _ in hover],
        "y": [round(y, 4) for _, y, _ in hover],
        "t": [text for _, _, text in hover],
    }
    return el(
        "div",
        el("div", y_labels, class_="y-ticks", aria_hidden="true"),
        el("div", drawing, notes, class_="area"),
        el("div", x_labels, class_="x-ticks", aria_hidden="true"),
        class_="plot",
        role="img",
        tabindex=0,
        aria_label=summary,
        data_hover=json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
    )


def _marker_line(marker: Marker, y_axis: Axis) -> tuple[Html, Html]:
    place = y_axis.at(marker.value)
    note = el("span", marker.label, class_="note at-right", style=f"bottom:{100 * place:.2f}%")
    return _line(0, place, 1, place, "marker"), note


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return el("path", d=_path([(x1, y1), (x2, y2)]), class_=class_, vector_effect="non-scaling-stroke")


def _path(points: Sequence[tuple[float, float]]) -> str:
    steps = [f"{_SIZE * x:.1f} {_SIZE * (1 - y):.1f}" for x, y in points]
    return "M" + "L".join(steps if len(steps) > 1 else steps * 2)  # a path of one point is drawn as a dot, by its round ends


def _between(low: float, high: float) -> str:
    """The whole numbers from `low` up to, not including, `high`."""
    first, last = math.ceil(low), math.ceil(high) - 1
    return number(first) if first >= last else f"{number(first)} to {number(last)}"
