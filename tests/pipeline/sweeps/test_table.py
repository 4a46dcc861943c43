"""The table of a sweep: fronts against their definition, rows chosen and sorted, text for a terminal, and Parquet read back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.sweeps.plan import Point
from pipeline.sweeps.records import Record
from pipeline.sweeps.table import Table, draw_fronts, front, make_table
from sae.config import InputError


def point(index: int, **values: Any) -> Point:
    return Point(
        index, f"point-{index}", f"key{index}", "upstream", {path.replace("__", "."): value for path, value in values.items()}
    )


def record(of: Point, l0: float, fvu: float, recovered: float | None = None, **more: Any) -> Record:
    metrics = {"evaluation.l0": l0, "evaluation.fvu": fvu, "evaluation.dead_latents": 3, "train.lr": 0.0}
    metrics |= {} if recovered is None else {"evaluation.loss.recovered_mean": recovered}
    about: dict[str, Any] = {"sweep": "s", "state": "done", "metrics": metrics, "seconds": 12.5, "base": "b", "commit": "c"}
    return Record(of.key, of.name, of.index, of.values, **about | more)


def table_of(points: list[Point], records: list[Record], base: dict[str, Any] | None = None) -> Table:
    return make_table(points, {record.key: record for record in records}, base)


POINTS = [
    point(0, train__lr=0.1, sae__architecture="topk"),
    point(1, train__lr=0.2, sae__architecture="topk"),
    point(2, train__lr=0.1, sae__architecture="gated"),
    point(3, train__lr=0.2, sae__architecture="gated"),
    point(4, train__lr=0.4),
]
RECORDS = [
    record(POINTS[0], 16.0, 0.2, 0.9),
    record(POINTS[1], 8.0, 0.3, 0.95),
    record(POINTS[2], 32.0, 0.1, 0.8),
    Record("key3", "point-3", 3, POINTS[3].values, "s", "failed", error="train: it failed"),
]


@pytest.fixture
def table() -> Table:
    return table_of(POINTS, RECORDS, {"train.lr": 1e-3, "sae.architecture": "vanilla"})


def names(table: Table) -> list[int]:
    return [row["#"] for row in table.rows]


coordinates = st.integers(0, 2) | st.sampled_from([1.0, -1.0, 1e9, math.nan, math.inf, None, True, "x"])


def number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


@settings(max_examples=300)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=8), st.sampled_from([1, -1]))
def test_a_front_is_what_no_other_row_beats(places: list[tuple[Any, Any]], sign: int) -> None:
    rows = [{"x": x, "y": y, "name": f"{index}"} for index, (x, y) in enumerate(places)]
    rows.append({"name": "without"})
    complete = [row for row in rows if number(row.get("x")) and number(row.get("y"))]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        better = (other["x"] - one["x"], sign * (one["y"] - other["y"]))
        return min(better) >= 0 and max(better) > 0

    assert front(rows, "x", "y", sign) == {row["name"] for row in complete if not any(beats(one, row) for one in complete)}


def test_fronts_are_those_of_l0_with_fvu_and_with_the_loss_recovered(table: Table) -> None:
    assert table.fronts() == [{"point-0", "point-1", "point-2"}, {"point-1"}]


def test_rows_have_the_points_values_or_the_files_and_what_was_measured(table: Table) -> None:
    assert table.columns == {"train.lr": "lr", "sae.architecture": "architecture"}
    assert [(row["lr"], row["architecture"]) for row in table.rows][-2:] == [(0.2, "gated"), (0.4, "vanilla")]
    assert [row["state"] for row in table.rows] == ["done", "done", "done", "failed", "to do"]
    assert [row["L0"] for row in table.rows] == [16.0, 8.0, 32.0, None, None]
    assert [row.get("error") for row in table.rows] == ["", "", "", "train: it failed", None]
    assert [row["seconds"] for row in table.rows] == [12.5, 12.5, 12.5, 0.0, None]


@pytest.mark.parametrize(
    "path", ["train.optimizer.name", "own.state", "own.seconds", "own.metrics", "own.L0", "own.#", "own.front"]
)
def test_a_swept_value_takes_no_other_columns_name(path: str, tmp_path: Path) -> None:
    points = [Point(index, f"point-{index}", f"key{index}", "", {path: value}) for index, value in enumerate(["adam", "sgd"])]
    table = table_of(points, [record(points[0], 1.0, 0.5), record(points[1], 2.0, 0.25)])
    assert [row["name"] for row in table.rows] == ["point-0", "point-1"]
    assert [row["L0"] for row in table.rows] == [1.0, 2.0]
    assert [row[table.columns[path]] for row in table.rows] == ["adam", "sgd"]
    assert table.fronts()[0] == {"point-0", "point-1"}
    assert names(table.where(f"{path}=sgd")) == [1]
    assert table.text().splitlines()[1].split()[-2:] == ["done", "*"]
    table.save(tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet")[path].to_pylist() == ["adam", "sgd"]


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("L0", [1, 0, 2, 3, 4]),
        ("FVU", [2, 0, 1, 3, 4]),
        ("-#", [4, 3, 2, 1, 0]),
        ("lr", [0, 2, 1, 3, 4]),
        ("train.lr", [0, 2, 1, 3, 4]),
        ("architecture", [2, 3, 0, 1, 4]),
        ("evaluation.fvu", [2, 0, 1, 3, 4]),
        ("state", [0, 1, 2, 3, 4]),
    ],
)
def test_rows_are_sorted_by_a_column_or_a_metric_and_those_without_a_value_come_last(
    table: Table, column: str, order: list[int]
) -> None:
    ordered = table.sorted_by(column.removeprefix("-"), descending=column.startswith("-"))
    assert names(ordered) == order
    assert ordered.columns == table.columns


def test_rows_are_sorted_from_the_largest(table: Table) -> None:
    assert names(table.where("state=done").sorted_by("L0", descending=True)) == [2, 0, 1]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("L0<16", [1]),
        ("L0>8", [0, 2]),
        ("L0 = 16", [0]),
        ("L0=16.0", [0]),
        ("L0>1e1", [0, 2]),
        ("lr<0.2", [0, 2]),
        ("train.lr<0.2", [0, 2]),
        ("lr=1e-1", [0, 2]),
        ("architecture=topk", [0, 1]),
        ("architecture = none", []),
        ("state=to do", [4]),
        ("#>2", [3, 4]),
        ("evaluation.loss.recovered_mean>0.85", [0, 1]),
        ("dead=3", [0, 1, 2]),
        ("name=point-3", [3]),
    ],
)
def test_rows_are_chosen_by_a_condition(table: Table, condition: str, kept: list[int]) -> None:
    assert names(table.where(condition)) == kept


def test_conditions_know_words_numbers_in_text_and_truth() -> None:
    points = [point(0, a__x="16", a__y=True), point(1, a__x="b=c", a__y=False), point(2, a__x=None, a__y=[1, 2])]
    table = table_of(points, [])
    assert names(table.where("x=16")) == [0]
    assert names(table.where("x=b=c")) == [1]
    assert names(table.where("y=true")) == [0]
    assert names(table.where("y=False")) == [1]
    assert names(table.where("y=[1, 2]")) == [2]


@pytest.mark.parametrize("condition", ["L0", "", "L0<=16", "L0>=16", "L0==16", "architecture<topk", "L0<", "L0!=16", "=3"])
def test_what_is_no_condition_is_refused(table: Table, condition: str) -> None:
    with pytest.raises(InputError, match=r"^--where: "):
        table.where(condition)


def test_an_unknown_column_names_the_nearest(table: Table) -> None:
    with pytest.raises(
        InputError, match=r"^--where: no such column \(found architectur, .*or a metric\); did you mean 'architecture'"
    ):
        table.where("architectur=topk")
    with pytest.raises(InputError, match=r"^--sort: no such column \(found evaluation.fvuu, .*did you mean 'evaluation.fvu'"):
        table.sorted_by("evaluation.fvuu")


def test_the_text_has_a_line_for_each_row_under_aligned_columns(table: Table) -> None:
    assert table.text() == "\n".join(
        [
            "#   lr  architecture  L0  FVU  recovered  dead  seconds  state   front",
            "0  0.1  topk          16  0.2        0.9     3     12.5  done        *",
            "1  0.2  topk           8  0.3       0.95     3     12.5  done       *+",
            "2  0.1  gated         32  0.1        0.8     3     12.5  done        *",
            "3  0.2  gated          –    –          –     –        0  failed",
            "4  0.4  vanilla        –    –          –     –        –  to do",
        ]
    )


def test_the_text_of_no_rows_is_a_heading() -> None:
    assert table_of([], []).text().split() == ["#", "L0", "FVU", "recovered", "dead", "seconds", "state", "front"]


def test_parquet_holds_every_value_and_metric_in_full(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "deep/er/table.parquet"
    table.save(path)
    read = pq.read_table(path)
    assert read.column_names[:9] == ["#", "name", "state", "seconds", "error", "commit", "base", "train.lr", "sae.architecture"]
    assert read["#"].to_pylist() == [0, 1, 2, 3, 4]
    assert read["train.lr"].to_pylist() == [0.1, 0.2, 0.1, 0.2, 0.4]
    assert read["sae.architecture"].to_pylist() == ["topk", "topk", "gated", "gated", "vanilla"]
    for name, values in {
        "l0": [16.0, 8.0, 32.0],
        "fvu": [0.2, 0.3, 0.1],
        "loss.recovered_mean": [0.9, 0.95, 0.8],
        "dead_latents": [3, 3, 3],
    }.items():
        assert read[f"evaluation.{name}"].to_pylist() == [*values, None, None]
    assert read["front.FVU"].to_pylist() == [True, True, True, False, False]
    assert read["front.recovered"].to_pylist() == [False, True, False, False, False]
    assert pd.read_parquet(path).set_index("name").loc["point-1", "evaluation.l0"] == 8.0


def test_parquet_has_one_type_for_a_column_of_several(tmp_path: Path) -> None:
    values = [
        {"a.number": 1, "a.mixed": "x", "a.list": [1, 2], "a.truth": True, "a.none": None},
        {"a.number": 2.5, "a.mixed": 3, "a.list": ["b"], "a.truth": False, "a.none": None},
        {"a.number": None, "a.mixed": True, "a.list": {"c": 1}, "a.truth": None, "a.none": None},
    ]
    points = [Point(index, f"p{index}", f"k{index}", "", dict(value)) for index, value in enumerate(values)]
    made = Table({path: path for path in values[0]}, table_of(points, []).rows)
    for row, value in zip(made.rows, values, strict=True):
        row.update(value)
    made.save(tmp_path / "table.parquet")
    read = pq.read_table(tmp_path / "table.parquet")
    assert read["a.number"].to_pylist() == [1.0, 2.5, None]
    assert read["a.mixed"].to_pylist() == ["x", "3", "True"]
    assert read["a.list"].to_pylist() == ["[1, 2]", "['b']", "{'c': 1}"]
    assert read["a.truth"].to_pylist() == [True, False, None]
    assert read.schema.field("a.truth").type == pa.bool_()
    assert read["a.none"].to_pylist() == [None] * 3


def test_the_fronts_are_drawn_with_and_without_results(table: Table, tmp_path: Path) -> None:
    for name, drawn in {"full": table, "none": table_of(POINTS, []), "empty": table_of([], [])}.items():
        draw_fronts(drawn, tmp_path / f"{name}/fronts.png")
        with Image.open(tmp_path / f"{name}/fronts.png") as image:
            assert image.size == (1200, 504)
