"""The results of points as a table: on the terminal, as Parquet, and as a picture of the fronts."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.sweeps.keys import value_at
from pipeline.sweeps.plan import Point, short_names, swept_paths
from pipeline.sweeps.records import Record, Records
from sae.config import InputError, nearest_name

FIGURES = {  # column: metric
    "L0": "evaluation.l0",
    "FVU": "evaluation.fvu",
    "recovered": "evaluation.loss.recovered_mean",
    "dead": "evaluation.dead_latents",
}
OTHERS = ("#", "name", "state", "seconds", "error", "commit", "base", "metrics", "front")
FRONTS = (("L0", "FVU", -1), ("L0", "recovered", 1))  # x, y, and whether y is better when it is larger


@dataclass(frozen=True)
class Table:
    """Rows of points.

    Attributes:
        columns: names of the swept values, by path.
        rows: by column: `#`, `name`, `state`, the swept values, the figures and `seconds`; `metrics` holds all that was measured.
    """

    columns: dict[str, str]
    rows: list[dict[str, Any]]

    def fronts(self) -> list[set[str]]:
        """For each of `FRONTS`, the names of the points that no other beats in both."""
        return [front(self.rows, x, y, sign) for x, y, sign in FRONTS]

    def sorted_by(self, column: str, *, descending: bool = False) -> Table:
        """Sorted by a column, or by any metric; rows without it come last.

        Raises:
            InputError: there is no such column.
        """
        self._check(column, "--sort")
        known = [row for row in self.rows if self._value(row, column) is not None]
        rest = [row for row in self.rows if self._value(row, column) is None]
        return Table(self.columns, sorted(known, key=lambda row: _sortable(self._value(row, column)), reverse=descending) + rest)

    def where(self, condition: str) -> Table:
        """The rows for which `column=value`, `column<value` or `column>value` holds.

        Raises:
            InputError: it is no such condition, or there is no such column.
        """
        for sign in ("<", ">", "="):
            name, found, text = condition.partition(sign)
            if found:
                break
        wanted = _typed(text.strip())
        if not found or text.startswith("=") or (sign != "=" and not isinstance(wanted, int | float)):
            raise InputError(
                "this is no condition", where="--where", found=condition, expected="such as L0<32 or architecture=topk"
            )
        self._check(name.strip(), "--where")
        test: Callable[[Any, Any], bool] = {"<": operator.lt, ">": operator.gt, "=": operator.eq}[sign]
        kept = []
        for row in self.rows:
            value = self._value(row, name.strip())
            comparable = isinstance(value, int | float) and isinstance(wanted, int | float)
            if value is not None and (comparable or sign == "=") and test(value if comparable else _typed(str(value)), wanted):
                kept.append(row)
        return Table(self.columns, kept)

    def marks(self) -> list[str]:
        """For each row, the signs of the fronts that it stands on."""
        fronts = self.fronts()
        return ["".join(mark for mark, names in zip("*+", fronts, strict=True) if row["name"] in names) for row in self.rows]

    def text(self) -> str:
        """For a terminal. `*` marks the L0–FVU front, `+` the front of L0 and the loss recovered."""
        shown = ["#", *self.columns.values(), *FIGURES, "seconds", "state", "front"]
        cells = [shown]
        for row, marks in zip(self.rows, self.marks(), strict=True):
            cells.append([_cell(row.get(column)) for column in shown[:-1]] + [marks])
        widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
        numeric = [all(_is_number(row.get(name)) or row.get(name) is None for row in self.rows) for name in shown]
        lines = []
        for line in cells:
            padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """As Parquet: a column for each swept path and each metric, in full."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        fronts = self.fronts()
        flat = []
        for row in self.rows:
            values = {path: row.get(name) for path, name in self.columns.items()}
            simple = {path: v if isinstance(v, bool | int | float | str) or v is None else str(v) for path, v in values.items()}
            on_front = {f"front.{y}": row["name"] in names for (_, y, _), names in zip(FRONTS, fronts, strict=True)}
            about = {key: row.get(key) for key in ("#", "name", "state", "seconds", "error", "commit", "base")}
            flat.append({**about, **simple, **row["metrics"], **simple, **on_front})
        names = dict.fromkeys(name for row in flat for name in row)
        columns = {name: _one_type([row.get(name) for row in flat]) for name in names}
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        column = self.columns.get(name, name)  # a swept path may be a metric's name too, such as train.lr
        return row[column] if column in row else row["metrics"].get(name)

    def _check(self, name: str, where: str) -> None:
        known = {key for row in self.rows for key in [*row, *row["metrics"]]} | {*self.columns} - {"metrics"}
        if self.rows and name not in known:
            nearest = nearest_name(name, known)
            shown = ", ".join(["#", *self.columns.values(), *FIGURES, "seconds", "state"])
            raise InputError("no such column", where=where, found=name, expected=f"{shown}, or a metric", nearest=nearest)


def make_table(points: Sequence[Point], found: Mapping[str, Record], base: Mapping[str, Any] | None = None) -> Table:
    """The table of some points.

    Args:
        points: rows.
        found: what is known of them, by key.
        base: values of params.yaml by path, for points that don't set what others do.
    """
    columns = short_names(swept_paths(points), taken=(*OTHERS, *FIGURES))
    rows = []
    for point in points:
        record = found.get(point.key)
        row: dict[str, Any] = {"#": point.index, "name": point.name, "state": record.state if record else "to do"}
        row |= {name: point.values.get(path, (base or {}).get(path)) for path, name in columns.items()}
        row["metrics"] = record.metrics if record else {}
        row |= {name: row["metrics"].get(metric) for name, metric in FIGURES.items()}
        row["seconds"] = record.seconds if record else None
        row |= {"error": record.error, "commit": record.commit, "base": record.base} if record else {}
        rows.append(row)
    return Table(columns, rows)


def table_of(root: Path, points: Sequence[Point], params: Mapping[str, Any] | None = None) -> Table:
    """The table of some points with what is known of them in a project.

    Args:
        root: the project.
        points: rows.
        params: sections that the points were planned with; those of params.yaml as it is if left out.
    """
    records, base = Records(root), read_yaml(root / PARAMS_FILE) if params is None else params
    found = {point.key: record for point in points if (record := records.get(point.key)) is not None}
    return make_table(points, found, {path: value_at(base, path) for path in swept_paths(points)})


def front(rows: Iterable[Mapping[str, Any]], x: str, y: str, sign: int) -> set[str]:
    """Names of the rows that no other row beats: no larger x, and a y that is better or the same, one of them strictly.

    Args:
        rows: with numbers at `x` and `y`; others are left out.
        x: column that is better when smaller.
        y: column.
        sign: 1 if a larger y is better, -1 if a smaller one is.
    """
    numbers = [(row[x], -sign * row[y], row["name"]) for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    best, last, kept = math.inf, None, set()
    for at, cost, name in sorted(numbers):
        if cost < best or (at, cost) == last:
            best, last = cost, (at, cost)
            kept.add(name)
    return kept


def figures_text(record: Record) -> str:
    """The main figures of a point in a line; empty if there are none."""
    found = ((name, record.metrics.get(metric)) for name, metric in FIGURES.items() if name != "dead")
    return ", ".join(f"{name} {value:.4g}" for name, value in found if value is not None)


def save_results(table: Table, folder: Path) -> None:
    """The table as Parquet and the picture of its fronts."""
    table.save(folder / "table.parquet")
    draw_fronts(table, folder / "fronts.png")


def draw_fronts(table: Table, path: Path) -> None:
    """A picture of L0 against FVU and against the loss recovered, a colour for each value of the first swept text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in table.rows if _is_number(row.get("L0"))]
    group = next((name for name in table.columns.values() if any(isinstance(row.get(name), str) for row in rows)), None)
    groups = list(dict.fromkeys(str(row.get(group)) if group else "points" for row in rows))
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (x, y, sign) in zip(figure.subplots(1, 2), FRONTS, strict=True):
        names = front(rows, x, y, sign)
        for index, label in enumerate(groups):
            mine = [row for row in rows if (str(row.get(group)) if group else "points") == label and _is_number(row.get(y))]
            axes.scatter([row[x] for row in mine], [row[y] for row in mine], s=30, color=f"C{index % 10}", label=label)
        best = sorted((row[x], row[y]) for row in rows if row["name"] in names)
        axes.plot([at for at, _ in best], [value for _, value in best], color="0.4", linewidth=1, zorder=0, label="front")
        if rows and max(row[x] for row in rows) > 4 * max(min(row[x] for row in rows), 1e-9):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("L0, active latents a token")
        axes.set_ylabel({"FVU": "FVU on held-out rows", "recovered": "loss recovered, against mean ablation"}[y])
        axes.grid(alpha=0.25)
    if rows:
        figure.axes[0].legend(title=group, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if _is_number(value) else (1, str(value))


def _typed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _one_type(values: list[Any]) -> list[Any]:
    """Values of a column of one type: of numbers, floats; of a mixture, text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
