"""The configs that a swept config stands for, in an order that does not change.

Every `Swept` is an axis, every `SweepVar` is one, however many fields use it. The axes stand in the order of the fields that
they are met in; of all combinations, the last axis changes fastest.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from sae.config import InputError, SweepableConfig, derive_seed, parse_config
from sae.config.swept import SweepExpression, SweepVar, Swept, from_plain, to_plain

C = TypeVar("C", bound=SweepableConfig)


@dataclass(frozen=True)
class Point(Generic[C]):
    """One of the configs.

    Attributes:
        index: its place among all.
        values: what was chosen, by dotted path of the field; where expressions stood, their values.
        config: itself.
    """

    index: int
    values: Mapping[str, Any]
    config: C


def is_concrete(config: SweepableConfig) -> bool:
    """Whether a config is one and stands for no others."""
    return not any(True for _ in _swept_fields(config, ()))


def points(config: C) -> Sequence[Point[C]]:
    """All configs that this one stands for; only itself if it is concrete. They are made when they are looked at.

    Raises:
        InputError: two variables have one name; and, when a point is made, a value that its field does not take.

    >>> class TrainConfig(SweepableConfig):
    ...     batch_size: int = 512
    ...     steps: int = 1000
    ...     lr: float = 1e-3
    >>> w = SweepVar(1, 2, name="w")
    >>> swept = TrainConfig(batch_size=512 * w, steps=1000 // w, lr=Swept(1e-3, 1e-4))
    >>> [dict(point.values) for point in points(swept)][-1]
    {'batch_size': 1024, 'steps': 500, 'lr': 0.0001}
    >>> len(points(swept))
    4
    """
    return _Points(config)


def sample(config: C, count: int, seed: int = 0) -> list[Point[C]]:
    """So many different points, drawn at random; in the order of their indices.

    Raises:
        InputError: there are not so many.
    """
    every = points(config)
    if count > len(every):
        raise InputError("there are not so many points", where="count", found=count, expected=f"at most {len(every)}")
    chosen = random.Random(derive_seed(seed, "sweep")).sample(range(len(every)), count)
    return [every[index] for index in sorted(chosen)]


def dump(config: SweepableConfig) -> dict[str, Any]:
    """A config, swept or not, as plain data for JSON or YAML."""
    return {name: _dumped(getattr(config, name)) for name in type(config).model_fields if name in config.model_fields_set}


def load(cls: type[C], data: Mapping[str, Any]) -> C:
    """The config that `dump` made such data of.

    Raises:
        InputError: naming every wrong field.
    """
    return parse_config(cls, from_plain(data))


class _Points(Sequence[Point[C]], Generic[C]):
    def __init__(self, config: C) -> None:
        self.config = config
        self.fields = dict(_swept_fields(config, ()))
        axes: dict[tuple[str, ...], tuple[Any, ...]] = {}
        variables: dict[str, SweepVar] = {}
        for path, value in self.fields.items():
            axes_of_field = [value] if isinstance(value, Swept) else value.variables.values()
            if any(True for axis in axes_of_field for choice in axis.values for _ in _swept_fields(choice, ())):
                raise InputError("a value of an axis holds an axis of its own", where=".".join(path), found=value)
            if isinstance(value, Swept):
                axes[path] = value.values
                continue
            for name, variable in value.variables.items():
                if variables.setdefault(name, variable) != variable:
                    raise InputError("two variables have one name", where=name, found=variable, expected=variables[name])
                axes[("$", name)] = variable.values
        self.axes = axes

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"point {index} of a sweep of {len(self)}")
        chosen: dict[tuple[str, ...], Any] = {}
        rest = place
        for axis, choices in reversed(self.axes.items()):
            rest, digit = divmod(rest, len(choices))
            chosen[axis] = choices[digit]
        variables = {axis[1]: value for axis, value in chosen.items() if axis[0] == "$"}
        try:
            values = {
                path: chosen[path] if isinstance(field, Swept) else _evaluated(field, variables, path)
                for path, field in self.fields.items()
            }
            config = _chosen(self.config, (), values)
        except InputError as error:
            raise InputError(f"point {place} of the sweep: {error}") from None
        return Point(place, {".".join(path): value for path, value in values.items()}, config)

    def __iter__(self) -> Iterator[Point[C]]:
        return map(self.__getitem__, range(len(self)))


def _swept_fields(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Swept | SweepExpression):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _swept_fields(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _swept_fields(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(_swept_fields(item, (*path, str(i))) for i, item in enumerate(value))


def _evaluated(expression: SweepExpression, variables: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    try:
        return expression.evaluate(variables)
    except InputError as error:
        raise InputError(f"{'.'.join(path)}: {error}") from None


def _chosen(value: Any, path: tuple[str, ...], values: Mapping[tuple[str, ...], Any]) -> Any:
    if path in values:
        return values[path]
    if isinstance(value, BaseModel):
        swept = {place[len(path)] for place in values if place[: len(path)] == path}
        if not swept:
            return value
        names = [name for name in type(value).model_fields if name in value.model_fields_set | swept]
        fields = {name: _chosen(getattr(value, name), (*path, name), values) for name in names}
        return parse_config(type(value), fields, ".".join(path))
    if isinstance(value, Mapping):
        return {key: _chosen(item, (*path, str(key)), values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_chosen(item, (*path, str(i)), values) for i, item in enumerate(value)]
    return value


def _dumped(value: Any) -> Any:
    if isinstance(value, Swept | SweepExpression):
        value = to_plain(value)  # in which configs may stand
    if isinstance(value, SweepableConfig):
        return dump(value)
    if isinstance(value, Mapping):
        return {key: _dumped(item) for key, item in value.items()}
    return [_dumped(item) for item in value] if isinstance(value, list | tuple) else value
