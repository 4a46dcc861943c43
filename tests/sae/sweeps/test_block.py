"""The section `sweep`: axes, drawn points, branches and seeds against products and closed forms; mistakes name their field."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sae.config import InputError, parse_config
from sae.sweeps import SweepConfig

BASE: dict[str, Any] = {"sae": {"architecture": "topk"}, "train": {"seed": 5, "lr": 1e-3}}


def overlays(data: dict[str, Any], base: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return parse_config(SweepConfig, data, "sweep").overlays(BASE if base is None else base)


def drawn(kind: str, values: list[Any], draws: int, seed: int = 0) -> list[Any]:
    made = overlays({"random": {"draws": draws, "seed": seed, "fields": {"train.x": {kind: values}}}})
    return [point["train.x"] for point in made]


def test_an_empty_section_is_the_point_in_the_file() -> None:
    assert overlays({}) == [{}]


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(), min_size=1, max_size=3, unique=True), min_size=1))
def test_a_grid_is_a_product_in_the_order_of_the_file(grid: dict[str, list[int]]) -> None:
    assert overlays({"grid": grid}) == [dict(zip(grid, choice, strict=True)) for choice in itertools.product(*grid.values())]


def test_zipped_lists_move_together() -> None:
    made = overlays({"zip": [{"train.lr": [0.1, 0.2], "train.steps": [10, 20]}, {"train.seed": [0, 1]}]})
    assert made == [
        {"train.lr": lr, "train.steps": steps, "train.seed": seed} for lr, steps in [(0.1, 10), (0.2, 20)] for seed in (0, 1)
    ]


def test_expressions_of_variables_move_together() -> None:
    expressions = {"train.batch_size": "512 * w", "train.steps": "4000 // w", "train.lr": "lr * w ** 0.5"}
    made = overlays({"vars": {"w": [1, 2, 4], "lr": [1e-3, 1e-4]}, "expr": expressions})
    assert made == [
        {"train.batch_size": 512 * w, "train.steps": 4000 // w, "train.lr": lr * w**0.5} for w in (1, 2, 4) for lr in (1e-3, 1e-4)
    ]


def test_an_expression_without_variables_is_a_value() -> None:
    assert overlays({"grid": {"train.lr": [0.1, 0.2]}, "expr": {"train.steps": "20 * 1000"}}) == [
        {"train.lr": lr, "train.steps": 20_000} for lr in (0.1, 0.2)
    ]


def test_explicit_points_are_an_axis_too() -> None:
    explicit = [{"sae.architecture": "topk", "sae.expansion": 8}, {"sae.architecture": "gated"}]
    assert overlays({"points": explicit}) == explicit
    assert overlays({"points": explicit, "grid": {"train.seed": [0, 1]}}) == [
        p | {"train.seed": s} for p in explicit for s in (0, 1)
    ]


def test_axes_of_every_kind_are_combined_and_the_last_changes_fastest() -> None:
    data = {
        "random": {"draws": 2, "fields": {"train.r": {"choice": ["r0", "r1"]}}},
        "expr": {"train.e": "10 * w"},
        "vars": {"w": [1, 2]},
        "zip": [{"train.z": ["z0", "z1"]}],
        "grid": {"train.g": ["g0", "g1"]},
        "points": [{"train.p": "p0"}, {"train.p": "p1"}],
    }
    made = [tuple(point[f"train.{name}"] for name in "pgzer") for point in overlays(data)]
    random = [values[-1] for values in made[:2]]
    assert sorted(random) == ["r0", "r1"]
    assert made == list(itertools.product(["p0", "p1"], ["g0", "g1"], ["z0", "z1"], [10, 20], random))


@given(
    st.sampled_from(["uniform", "log_uniform"]),
    st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)).filter(lambda ends: abs(ends[0] - ends[1]) > 1e-3 * sum(ends)),
    st.integers(0, 9),
)
def test_drawn_numbers_lie_within_their_bounds_are_all_different_and_short(
    kind: str, ends: tuple[float, float], seed: int
) -> None:
    low, high = sorted(ends)
    values = drawn(kind, [low, high], 30, seed)
    assert all(low <= value <= high for value in values)
    assert len(set(values)) == 30
    assert all(float(f"{value:.6g}") == value for value in values if value not in (low, high))


def test_a_number_that_is_rounded_stays_within_narrow_bounds() -> None:
    assert sorted(drawn("uniform", [1.0000004, 1.0000096], 2)) == [1.0000004, 1.0000096]


def test_drawn_whole_numbers_are_whole_and_both_ends_are_among_them() -> None:
    values = drawn("integers", [3, 12], 10)
    assert sorted(values) == list(range(3, 13))
    assert {type(value) for value in values} == {int}


def test_choices_are_those_given() -> None:
    choices = ["adam", None, 3, [1, 2]]
    values = drawn("choice", choices, 4)
    assert all(value in choices for value in values)
    assert len({repr(value) for value in values}) == 4


@pytest.mark.parametrize(("kind", "transform"), [("uniform", np.asarray), ("log_uniform", np.log)])
def test_drawn_numbers_are_distributed_as_they_say(kind: str, transform: Any) -> None:
    low, high = 1e-4, 1e-1
    values = transform(drawn(kind, [low, high], 800))
    at, width = transform(low), transform(high) - transform(low)
    assert scipy.stats.kstest(values, scipy.stats.uniform(at, width).cdf).pvalue > 0.01


def test_drawn_integers_are_equally_frequent() -> None:
    fields = {"train.x": {"integers": [0, 4]}, "train.y": {"uniform": [0, 1]}}
    made = overlays({"random": {"draws": 1000, "fields": fields}})
    counts = np.bincount([point["train.x"] for point in made], minlength=5)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_draws_stay_the_same_and_another_seed_draws_others() -> None:
    assert drawn("uniform", [0, 1], 5) == drawn("uniform", [0, 1], 5)
    assert not set(drawn("uniform", [0, 1], 5)) & set(drawn("uniform", [0, 1], 5, seed=1))
    assert drawn("uniform", [0, 1], 9)[:5] == drawn("uniform", [0, 1], 5)


def test_a_point_of_several_fields_differs_in_one_at_least() -> None:
    fields = {"train.a": {"choice": [0, 1]}, "train.b": {"integers": [0, 3]}}
    made = overlays({"random": {"draws": 8, "fields": fields}})
    assert {tuple(point.values()) for point in made} == set(itertools.product((0, 1), range(4)))


def test_a_branch_has_its_axis_for_some_points_only() -> None:
    data = {
        "grid": {"sae.architecture": ["topk", "gated"], "train.seed": [0, 1]},
        "when": [{"if": {"sae.architecture": "topk"}, "grid": {"sae.topk.aux": [1, 2]}}],
    }
    assert overlays(data) == [
        *({"sae.architecture": "topk", "train.seed": s, "sae.topk.aux": a} for s in (0, 1) for a in (1, 2)),
        *({"sae.architecture": "gated", "train.seed": s} for s in (0, 1)),
    ]


def test_a_branch_may_hang_on_the_file_on_several_values_and_on_another_branch() -> None:
    assert len(overlays({"when": [{"if": {"sae.architecture": "topk"}, "grid": {"train.lr": [1, 2, 3]}}]})) == 3
    assert overlays({"when": [{"if": {"sae.architecture": "gated"}, "grid": {"train.lr": [1, 2, 3]}}]}) == [{}]
    data = {
        "grid": {"sae.architecture": ["topk", "gated", "vanilla"]},
        "when": [
            {"if": {"sae.architecture": ["topk", "gated"]}, "grid": {"train.lr": [1, 2]}},
            {"if": {"train.lr": 2, "sae.architecture": "gated"}, "vars": {"w": [1, 2]}, "expr": {"train.steps": "100 * w"}},
        ],
    }
    assert [tuple(point.values()) for point in overlays(data)] == [
        ("topk", 1), ("topk", 2), ("gated", 1), ("gated", 2, 100), ("gated", 2, 200), ("vanilla",)
    ]  # fmt: skip


def test_seeds_count_from_the_points_own_or_the_files_or_0() -> None:
    data: dict[str, Any] = {"grid": {"train.lr": [0.1, 0.2]}, "seeds": 3}
    for base, first in ((BASE, 5), ({}, 0)):
        assert overlays(data, base) == [{"train.lr": lr, "train.seed": first + n} for lr in (0.1, 0.2) for n in range(3)]
    own = overlays({"grid": {"train.seed": [0, 10]}, "seeds": 2})
    assert [point["train.seed"] for point in own] == [0, 1, 10, 11]


def test_a_seed_in_the_file_that_is_no_number_is_named() -> None:
    with pytest.raises(InputError, match=r"train\.seed: .*found five"):
        overlays({"grid": {"train.lr": [0.1]}, "seeds": 2}, {"train": {"seed": "five"}})


MANY: dict[str, dict[str, Any]] = {
    "grid": {"grid": {"train.a": list(range(40)), "train.b": list(range(26))}},
    "huge grid": {"grid": {f"train.a{n}": list(range(100)) for n in range(10)}},
    "variables": {"vars": {f"v{n}": list(range(20)) for n in range(8)}, "expr": {"train.a": "+".join(f"v{n}" for n in range(8))}},
    "draws": {"random": {"draws": 10**9, "fields": {"train.a": {"uniform": [0, 1]}}}},
    "seeds": {"grid": {"train.a": list(range(20))}, "seeds": 51},
    "branch": {"grid": {"train.a": list(range(20))}, "when": [{"if": {"train.lr": 1e-3}, "grid": {"train.b": list(range(51))}}]},
    "draws of a branch": {
        "when": [{"if": {"train.lr": 1e-3}, "random": {"draws": 10**9, "fields": {"train.a": {"uniform": [0, 1]}}}}]
    },
}


@pytest.mark.parametrize("data", MANY.values(), ids=MANY)
def test_more_points_than_allowed_are_refused_at_once(data: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"^sweep: these are many points \(found \d+, expected at most sweep\.max_points, which is 1000"
    ):
        overlays(data)


def test_as_many_points_as_allowed_are_made() -> None:
    grid = {"train.a": list(range(40)), "train.b": list(range(25))}
    assert len(overlays({"grid": grid})) == 1000
    assert len(overlays({"grid": {**grid, "train.c": [0, 1]}, "max_points": 2000})) == 2000


@pytest.mark.parametrize(
    ("data", "same"),
    [
        ({"points": [{"train.a": 1}, {"train.b": 1}, {"train.a": 1}]}, "0 and 2"),
        ({"zip": [{"train.a": [1, 2, 2], "train.b": [3, 4, 4]}]}, "1 and 2"),
        ({"vars": {"w": [1, 2, 3]}, "expr": {"train.a": "w // 2"}}, "1 and 2"),
        ({"grid": {"train.seed": [0, 1]}, "seeds": 2}, "1 and 2"),
    ],
)
def test_the_same_point_twice_is_refused(data: dict[str, Any], same: str) -> None:
    with pytest.raises(InputError, match=f"^sweep: points {same} are the same"):
        overlays(data)


X = {"uniform": [0, 1]}
MISTAKES: list[tuple[Any, list[str]]] = [
    (3, ["sweep: this is a section"]),
    ({"grdi": {}}, ["sweep.grdi: unknown key", "'sweep.grid'"]),
    ({"grid": {"train.lr": 0.1}}, ["sweep.grid.train.lr: ", "list", "found 0.1"]),
    ({"grid": {"train.lr": []}}, ["sweep: train.lr: an axis needs at least one value"]),
    ({"grid": {"train.lr": [0.1, 0.1]}}, ["sweep: train.lr: this value appears twice on its axis", "found 0.1"]),
    ({"zip": [{"a": [1]}, {"a": [1, 2], "b": [1]}]}, ["sweep: ", "one length", "in number 2, a has 2, b has 1"]),
    ({"zip": [{}]}, ["sweep: ", "in number 1, there are none"]),
    ({"zip": [{"train.lr": [], "train.steps": []}]}, ["sweep: train.lr, train.steps: an axis needs at least one value"]),
    ({"vars": {"w": [1]}}, ["sweep: no expression uses the variable w"]),
    ({"vars": {"w": []}, "expr": {"train.lr": "w"}}, ["sweep: w: an axis needs at least one value"]),
    ({"vars": {"2w": [1]}, "expr": {"train.lr": "1"}}, ["sweep: vars: ", "the name of a variable is a word", "found 2w"]),
    (
        {"vars": {"width": [1]}, "expr": {"train.lr": "2 * wdth"}},
        ["sweep: train.lr: ", "no such variable", "did you mean 'width'"],
    ),
    ({"expr": {"train.lr": "w"}}, ["sweep: train.lr: ", "no such variable", "none is declared"]),
    ({"expr": {"train.lr": "1 +"}}, ["sweep: train.lr: ", "this is no expression"]),
    ({"expr": {"train.lr": "abs(1)"}}, ["sweep: train.lr: ", "Call can't stand in an expression", "numbers, strings"]),
    ({"expr": {"train.lr": 3}}, ["sweep.expr.train.lr: ", "string", "found 3"]),
    ({"grid": {"train.lr": [1]}, "points": [{"train.lr": 2}]}, ["sweep: train.lr is swept twice"]),
    ({"grid": {"train.lr": [1]}, "random": {"draws": 1, "fields": {"train.lr": X}}}, ["sweep: train.lr is swept twice"]),
    ({"grid": {"train.lr": [1]}, "expr": {"train.lr": "3"}}, ["sweep: train.lr is swept twice"]),
    ({"zip": [{"train.lr": [1]}, {"train.lr": [2]}]}, ["sweep: train.lr is swept twice"]),
    ({"points": {"train.lr": 1}}, ["sweep.points: ", "list"]),
    ({"random": {"fields": {"train.lr": X}}}, ["sweep.random.draws: this key is needed"]),
    ({"random": {"draws": 0, "fields": {"train.lr": X}}}, ["sweep.random.draws: ", "greater than 0"]),
    ({"random": {"draws": 1, "fields": {}}}, ["sweep.random.fields: ", "at least 1"]),
    (
        {"random": {"draws": 1, "fields": {"train.lr": {"unifrom": [0, 1]}}}},
        ["sweep.random.fields.train.lr.unifrom", "'uniform'"],
    ),
    ({"random": {"draws": 1, "fields": {"train.lr": {}}}}, ["sweep.random: train.lr is drawn in one way, such as"]),
    ({"random": {"draws": 1, "fields": {"train.lr": {**X, "choice": [1]}}}}, ["sweep.random: train.lr is drawn in one way"]),
    (
        {"random": {"draws": 1, "fields": {"train.lr": {"uniform": [1, 0]}}}},
        ["sweep.random: train.lr: uniform takes two numbers"],
    ),
    ({"random": {"draws": 1, "fields": {"train.lr": {"uniform": [1]}}}}, ["sweep.random: train.lr: ", "the smaller one first"]),
    (
        {"random": {"draws": 1, "fields": {"train.lr": {"uniform": ["0", 1]}}}},
        ["sweep.random: train.lr: uniform takes two numbers"],
    ),
    ({"random": {"draws": 1, "fields": {"train.lr": {"log_uniform": [0, 1]}}}}, ["sweep.random: train.lr: ", "over 0"]),
    ({"random": {"draws": 1, "fields": {"train.n": {"integers": [0, 1.5]}}}}, ["sweep.random: train.n: ", "two whole numbers"]),
    ({"random": {"draws": 1, "fields": {"train.n": {"choice": []}}}}, ["sweep.random: train.n: ", "at least one value"]),
    ({"when": [{"grid": {"train.lr": [1]}}]}, ["sweep.when.0.if: this key is needed"]),
    ({"when": [{"if": {}, "grid": {"train.lr": [1]}}]}, ["sweep.when.0.if: ", "at least 1"]),
    ({"when": [{"if": {"a": 1}, "grid": {"train.lr": []}}]}, ["sweep.when.0: train.lr: an axis needs at least one value"]),
    ({"seeds": 0}, ["sweep.seeds: ", "greater than 0", "found 0"]),
    ({"retries": -1}, ["sweep.retries: ", "greater than or equal to 0", "found -1"]),
    ({"max_points": 0}, ["sweep.max_points: ", "greater than 0"]),
    (
        {"vars": {"w": [1, 0]}, "expr": {"train.lr": "1 / w"}},
        ["train.lr: 1 / w: this has no value: division by zero", "{'w': 0}"],
    ),
    (
        {"random": {"draws": 3, "fields": {"train.n": {"choice": [1, 2]}}}},
        ["sweep.random.draws: there are not so many", "found 3"],
    ),
    (
        {"grid": {"train.lr": [1]}, "when": [{"if": {"sae.architecture": "topk"}, "grid": {"train.lr": [2]}}]},
        ["train.lr: is swept twice"],
    ),
]


@pytest.mark.parametrize(("data", "parts"), MISTAKES)
def test_a_mistake_is_one_line_that_names_its_field_and_what_is_expected(data: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        overlays(data)
    message = str(caught.value)
    assert message.startswith(parts[0])
    assert "\n" not in message
    for part in parts[1:]:
        assert part in message
