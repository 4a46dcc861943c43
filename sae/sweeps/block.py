"""The section `sweep` of params.yaml: axes laid over the other sections by dotted path, so that these keep plain values."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from sae.config import InputError, SweepableConfig, derive_seed
from sae.config.swept import SweepExpression, SweepVar, Swept

Overlay = dict[str, Any]  # values by dotted path

SEED = "train.seed"


class RandomConfig(SweepableConfig):
    """Points drawn at random: so many, each a value for every field, no two alike."""

    draws: int = Field(gt=0, description="How many.")
    seed: int = Field(default=0, ge=0, description="Another one draws other points.")
    fields: dict[str, dict[Literal["uniform", "log_uniform", "integers", "choice"], list[Any]]] = Field(
        min_length=1,
        description="By path: `{uniform: [low, high]}`, `{log_uniform: [low, high]}`, `{integers: [low, high]}`, both ends "
        "in it, or `{choice: [a, b, …]}`.",
    )

    @model_validator(mode="after")
    def _draws_can_be_made(self) -> RandomConfig:
        for path, kinds in self.fields.items():
            if len(kinds) != 1:
                raise ValueError(f"{path} is drawn in one way, such as {{log_uniform: [1.0e-4, 1.0e-2]}}")
            ((kind, values),) = kinds.items()
            if kind == "choice":
                if not values:
                    raise ValueError(f"{path}: choice takes at least one value")
                continue
            numbers = len(values) == 2 and all(isinstance(value, int | float) for value in values)
            if not numbers or values[0] >= values[1] or (kind == "log_uniform" and values[0] <= 0):
                raise ValueError(
                    f"{path}: {kind} takes two numbers, the smaller one first" + " and over 0" * (kind == "log_uniform")
                )
            if kind == "integers" and not all(isinstance(value, int) for value in values):
                raise ValueError(f"{path}: integers takes two whole numbers")
        return self


class AxesConfig(SweepableConfig):
    """Axes; the points are all their combinations, the last axis changing fastest."""

    points: list[dict[str, Any]] = Field(default=[], description="An axis of explicit points: values by path.")
    grid: dict[str, list[Any]] = Field(default={}, description="By path: an axis of its own.")
    zip: list[dict[str, list[Any]]] = Field(default=[], description="Lists of one length that move together, one axis each.")
    vars: dict[str, list[Any]] = Field(default={}, description="Named axes, for `expr`.")
    expr: dict[str, str] = Field(default={}, description="By path: arithmetic on `vars`, such as `512 * w`.")
    random: RandomConfig | None = Field(default=None, title="Random", description="An axis of random points.")

    @model_validator(mode="after")
    def _axes_have_values(self) -> AxesConfig:
        for name, values in {**self.grid, **self.vars}.items():
            _checked(lambda name=name, values=values: Swept(*values), name)
        for index, group in enumerate(self.zip):
            if len({len(values) for values in group.values()}) != 1:
                lengths = ", ".join(f"{path} has {len(values)}" for path, values in group.items())
                raise ValueError(f"lists that are zipped are of one length: in number {index + 1}, {lengths or 'there are none'}")
            if not all(group.values()):
                raise ValueError(f"{', '.join(group)}: an axis needs at least one value")
        variables = _checked(lambda: {name: SweepVar(*values, name=name) for name, values in self.vars.items()}, "vars")
        for path, text in self.expr.items():
            _checked(lambda text=text: SweepExpression(text, variables), path)
        if unused := set(self.vars) - {
            name for text in self.expr.values() for name in SweepExpression(text, variables).variables
        }:
            raise ValueError(f"no expression uses the variable {', '.join(sorted(unused))}")
        paths = [*self.grid, *self.expr, *(path for group in self.zip for path in group)]
        paths += [*(self.random.fields if self.random else ()), *{path for point in self.points for path in point}]
        if double := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"{', '.join(sorted(double))} is swept twice")
        return self

    def count(self) -> int:
        """How many combinations there are; it makes none."""
        axes: list[Sequence[Any]] = [self.points] if self.points else []
        axes += [*self.grid.values(), *(next(iter(group.values())) for group in self.zip), *self.vars.values()]
        return math.prod(map(len, axes)) * (self.random.draws if self.random is not None else 1)

    def axes(self) -> list[Sequence[Overlay]]:
        """The axes in their order."""
        axes: list[Sequence[Overlay]] = [self.points] if self.points else []
        axes += [[{path: value} for value in values] for path, values in self.grid.items()]
        axes += [[dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)] for group in self.zip]
        if self.expr:
            axes.append(list(self._coupled()))
        if self.random is not None:
            axes.append(_drawn(self.random))
        return axes

    def _coupled(self) -> Iterator[Overlay]:
        variables = {name: SweepVar(*values, name=name) for name, values in self.vars.items()}
        expressions = {path: SweepExpression(text, variables) for path, text in self.expr.items()}
        for values in itertools.product(*self.vars.values()):
            chosen = dict(zip(self.vars, values, strict=True))
            overlay = {}
            for path, expression in expressions.items():
                try:
                    overlay[path] = expression.evaluate(chosen)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from None
            yield overlay


class BranchConfig(AxesConfig):
    """Axes that exist only for some points."""

    if_: dict[str, Any] = Field(
        alias="if", min_length=1, description="By path: the value, or a list of values, that it has there."
    )


class SweepConfig(AxesConfig):
    """What `python -m pipeline sweep` runs beside the point that stands in the file."""

    when: list[BranchConfig] = Field(default=[], description="More axes for points that have a certain value, as `if` says.")
    seeds: int = Field(default=1, gt=0, description="Each point so many times, with `train.seed` and the numbers after it.")
    retries: int = Field(default=1, ge=0, description="How often a point that failed is tried again.")
    retry_delay: float = Field(default=10, ge=0, description="Seconds before that.")
    max_points: int = Field(default=1000, gt=0, description="More are refused: a slip of the pen is soon a million.")

    def overlays(self, base: Mapping[str, Any]) -> list[Overlay]:
        """The points: what each changes in `base`, by dotted path.

        Args:
            base: the other sections, as plain data.

        Raises:
            InputError: there are more than `max_points`, or two are the same.
        """
        combined: list[Overlay] = []
        for point in self._combinations(self, {}):
            variants = [point]
            for branch in self.when:
                variants = [
                    variant
                    for point in variants
                    for variant in (self._combinations(branch, point) if _holds(branch.if_, point, base) else [point])
                ]
            combined += variants
            self._count(len(combined))
        if self.seeds > 1:
            first = {index: _first_seed(point, base) for index, point in enumerate(combined)}
            self._count(len(combined) * self.seeds)
            combined = [point | {SEED: first[i] + n} for i, point in enumerate(combined) for n in range(self.seeds)]
        seen: dict[str, int] = {}
        for index, point in enumerate(combined):
            other = seen.setdefault(repr(sorted(point.items())), index)
            if other != index:
                raise InputError(f"points {other} and {index} are the same", where="sweep", found=point)
        return combined

    def _combinations(self, config: AxesConfig, point: Overlay) -> list[Overlay]:
        self._count(config.count())
        made = []
        for choice in itertools.product(*config.axes()):
            merged = dict(point)
            for values in choice:
                if double := merged.keys() & values.keys():
                    raise InputError("is swept twice", where=", ".join(sorted(double)))
                merged |= values
            made.append(merged)
        return made

    def _count(self, count: int) -> None:
        if count > self.max_points:
            raise InputError(
                "these are many points",
                where="sweep",
                found=count,
                expected=f"at most sweep.max_points, which is {self.max_points}",
            )


def _holds(conditions: Mapping[str, Any], point: Overlay, base: Mapping[str, Any]) -> bool:
    return all(
        _value(point, base, path) in (wanted if isinstance(wanted, list) else [wanted]) for path, wanted in conditions.items()
    )


def _value(point: Overlay, base: Mapping[str, Any], path: str) -> Any:
    if path in point:
        return point[path]
    value: Any = base
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _first_seed(point: Overlay, base: Mapping[str, Any]) -> int:
    value = _value(point, base, SEED) or 0
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError("this is no whole number", where=SEED, found=value) from None


def _drawn(config: RandomConfig) -> list[Overlay]:
    """Rounded to six digits, so that a value can be read, and typed again; but never beyond the bounds."""
    generator = random.Random(derive_seed(config.seed, "sweep"))
    made: list[Overlay] = []
    for _ in range(100 * config.draws):
        point = {path: _draw(generator, *next(iter(kinds.items()))) for path, kinds in config.fields.items()}
        if point not in made:
            made.append(point)
        if len(made) == config.draws:
            return made
    raise InputError("there are not so many different points", where="sweep.random.draws", found=config.draws)


def _draw(generator: random.Random, kind: str, values: Sequence[Any]) -> Any:
    if kind == "choice":
        return generator.choice(values)
    low, high = values
    if kind == "integers":
        return generator.randint(low, high)
    value = math.exp(generator.uniform(math.log(low), math.log(high))) if kind == "log_uniform" else generator.uniform(low, high)
    return min(max(float(f"{value:.6g}"), float(low)), float(high))


def _checked(make: Any, where: str) -> Any:
    """What `make` returns; its error in pydantic's form, behind the field that it is about."""
    try:
        return make()
    except InputError as error:
        text = str(error).removeprefix("Swept: ")
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None
