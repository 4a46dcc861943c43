from __future__ import annotations

import math

import pytest

from pipeline.report.axis import Axis, count_axis, value_axis
from pipeline.report.chart import comparison, curve_chart, frequency_chart, l0_chart
from pipeline.report.curves import in_order, segments, wants_log
from pipeline.report.data import Curve
from pipeline.report.histogram import Histogram


def curve(values: list[float], name: str = "train/loss") -> Curve:
    return Curve(name, tuple(float(step) for step in range(len(values))), tuple(values))


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 3000), ["0", "1,000", "2,000", "3,000"]),
        (Axis(0, 250_000), ["0", "50k", "100k", "150k", "200k", "250k"]),
        (Axis(0, 3e-4), ["0", "10⁻⁴", "2×10⁻⁴", "3×10⁻⁴"]),
        (Axis(-0.5, 0.5), ["−0.4", "−0.2", "0", "0.2", "0.4"]),
        (Axis(10, 1000, log=True), ["10", "30", "100", "300", "1,000"]),
        (Axis(1e-9, 1e3, log=True), ["10⁻⁹", "10⁻⁶", "0.001", "1", "1,000"]),
    ],
)
def test_ticks_are_round_values_inside_the_axis(axis: Axis, labels: list[str]) -> None:
    ticks = axis.ticks(6)
    assert [text for _, text in ticks] == labels
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in ticks)


@pytest.mark.parametrize("values", [[0.0], [5.0], [-3.0, -3.0], [1e-12, 2e-12], [1e9, 3e9], [99.9, 100.0], [-1.0, 1.0]])
def test_value_axis_holds_all_values_whatever_their_size(values: list[float]) -> None:
    axis = value_axis(values, log=False)
    assert axis.low < axis.high
    assert all(0 <= axis.at(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks(5)) <= 6


def test_axis_of_an_empty_histogram_has_a_height() -> None:
    assert count_axis([0, 0]).high > 0


def test_scale_is_logarithmic_only_for_positive_values_that_span_much() -> None:
    assert wants_log(curve([700.0, 16.0]))
    assert not wants_log(curve([4.0, 1.0]))
    assert not wants_log(curve([700.0, 0.0]))
    assert not wants_log(curve([1e-6, 1e-3], name="train/lr"))


def test_long_curve_is_thinned_and_keeps_its_spike() -> None:
    values = [math.sin(step / 500) for step in range(100_000)]
    values[54_321] = 40.0
    (points,) = segments(curve(values))
    assert len(points) <= 330
    assert (54_321.0, 40.0) in points
    assert points[0][0] == 0
    assert points[-1][0] == 99_999
    assert points == sorted(points)


def test_curves_that_say_most_come_first() -> None:
    names = ["zeta", "train/lr", "train/l0", "alpha", "train/loss", "train/fvu"]
    ordered = [found.name for found, _ in in_order([curve([1.0], name) for name in names])]
    assert ordered == ["train/loss", "train/l0", "train/fvu", "train/lr", "alpha", "zeta"]


def test_a_held_out_curve_stands_with_the_training_curve_of_the_same_figure() -> None:
    logged = ["train/held_out_fvu", "train/fvu", "train/l0", "held_out_l0", "train/held_out_loss"]
    pairs = [(first.name, second and second.name) for first, second in in_order([curve([1.0], name) for name in logged])]
    assert sorted(pairs, key=str) == [
        ("held_out_l0", None),
        ("train/fvu", "train/held_out_fvu"),
        ("train/held_out_loss", None),
        ("train/l0", None),
    ]


def test_a_held_out_curve_is_drawn_on_the_same_axes_and_told() -> None:
    chart = curve_chart(curve([3.0, 2.0, 1.0], "fvu"), held_out=curve([40.0, 30.0, 20.0], "held_out_fvu"))
    assert chart.count('class="curve"') == 1
    assert chart.count('class="curve held-out"') == 1
    assert "held out 20" in chart
    assert "step 1: 2, held out 30" in chart
    assert ">20</span>" in chart[chart.index("y-ticks") : chart.index("area")]
    places = [float(y) for path in chart.split(' d="')[1:] for y in path.split('"')[0].replace("L", " ").split()[1::2]]
    assert all(0 <= place <= 1000 for place in places)


@pytest.mark.parametrize("values", [[math.nan], []])
def test_a_held_out_curve_without_a_finite_value_leaves_the_training_curve_as_it_is(values: list[float]) -> None:
    chart = curve_chart(curve([3.0, 2.0], "fvu"), held_out=curve(values, "held_out_fvu"))
    assert chart.count('class="curve') == 1


@pytest.mark.parametrize("values", [[math.nan], [math.inf, -math.inf], []])
def test_curve_without_a_finite_value_says_so(values: list[float]) -> None:
    assert "No finite value" in curve_chart(curve(values))


def test_curve_of_one_point_is_a_dot() -> None:
    assert curve_chart(curve([2.0])).count("<path d=") >= 1


def test_frequency_chart_has_a_bar_for_what_never_fires() -> None:
    chart = frequency_chart(Histogram(edges=(-2, -1, 0), counts=(5, 7)), never=3)
    assert "3 latents never fire" in chart
    assert "5 latents fire on 1\N{NO-BREAK SPACE}% to 10\N{NO-BREAK SPACE}% of tokens" in chart
    assert chart.count("<rect") == 3


def test_l0_chart_names_the_numbers_of_each_bin() -> None:
    chart = l0_chart(Histogram(edges=(-0.5, 0.5, 4.5), counts=(2, 8)), mean=1.6)
    assert "2 tokens with 0 active latents" in chart
    assert "8 tokens with 1 to 4 active latents" in chart
    assert "mean 1.6" in chart


def test_l0_chart_tells_of_tokens_beyond_its_end() -> None:
    counts = [0.0] * 500
    counts[10:20] = [1000.0] * 10
    counts[499] = 4
    chart = l0_chart(Histogram(edges=tuple(range(501)), counts=tuple(counts)).of_whole_numbers(), mean=14.7)
    assert "4 tokens have more than 19" in chart


def test_comparison_bounds_its_bars() -> None:
    bars = comparison([("a", 0.5, ""), ("b", 3.0, ""), ("c", math.nan, "")], full=1.0)
    assert [part.split("%")[0] for part in bars.split("width:")[1:]] == ["50.0", "100.0", "0.0"]
