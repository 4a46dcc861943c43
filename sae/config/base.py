"""`SweepableConfig`, the base of every config class, and the translation of pydantic's errors into ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sae.config.errors import InputError, nearest_name
from sae.config.swept import Swept, first_of, is_swept  # noqa: F401 – Swept is for the example below


class SweepableConfig(BaseModel):
    """A typed section of ``params.yaml``, defined beside the code that it configures.

    Unknown keys are errors, values are checked against their types, numbers are finite, and a config never changes once
    it is made: what moves during training is state, not config.

    >>> class ReluConfig(SweepableConfig):
    ...     pre_bias: bool = False
    >>> ReluConfig(pre_bias=True)
    ReluConfig(pre_bias=True)
    >>> parse_config(ReluConfig, {"prebias": True}, "sae.relu")
    Traceback (most recent call last):
    sae.config.errors.InputError: sae.relu.prebias: unknown key; did you mean 'sae.relu.pre_bias'?

    Any field may hold a `Swept`, a `SweepVar` or an expression instead of a value, also within a dict or a list; such a
    config stands for many, which `sae.sweeps.points` lists.

    >>> ReluConfig(pre_bias=Swept(True, False))
    ReluConfig(pre_bias=Swept(True, False))
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=())

    def __init__(self, /, **data: Any) -> None:
        # What is checked is the first of all configs that it stands for; the others are when they are made.
        super().__init__(**{name: first_of(value) for name, value in data.items()})
        for name, value in data.items():
            if is_swept(value):
                first = getattr(self, name)
                swept = type(first)(**value) if isinstance(first, SweepableConfig) and isinstance(value, Mapping) else value
                self.__dict__[name] = swept  # past pydantic, whose type this is not


C = TypeVar("C", bound=BaseModel)


def parse_config(cls: type[C], data: Mapping[str, Any] | None, where: str = "") -> C:
    """Build a config from plain data.

    Args:
        cls: the config class.
        data: what stood in the file; None counts as empty.
        where: dotted path of the section, put in front of every field that an error names.

    Raises:
        InputError: one line for each wrong field, with the value found and, for an unknown key, the nearest known one.
    """
    if data is not None and not isinstance(data, Mapping):
        raise InputError("this is a section, so it holds keys and values", where=where or None, found=data)
    try:
        return cls.model_validate(dict(data or {}))
    except ValidationError as error:
        # A value that fits no type of a union brings one error for each type; the field is named once.
        wrong: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
        for details in error.errors():
            wrong.setdefault(_without_types(cls, details["loc"]), []).append(details)
        raise InputError("\n".join(_describe(cls, loc, details, where) for loc, details in wrong.items())) from None


def _describe(cls: type[BaseModel], loc: tuple[int | str, ...], errors: list[ErrorDetails], where: str) -> str:
    """One line on what is wrong with the field at `loc`."""
    details = errors[0]
    path = ".".join(str(part) for part in ([where] if where else []) + list(loc))
    if details["type"] == "extra_forbidden":
        known = _fields_at(cls, loc[:-1])
        nearest = nearest_name(str(loc[-1]), known)
        if nearest is None:
            return str(InputError("unknown key", where=path, expected="one of " + ", ".join(known)))
        return str(InputError("unknown key", where=path, nearest=".".join([*path.split(".")[:-1], nearest])))
    if details["type"] == "missing":
        return str(InputError("this key is needed", where=path))
    found = details.get("input")
    if details["type"] == "value_error" and isinstance(found, Mapping | BaseModel):  # a validator of the section, which names it
        found = None
    messages = (e["msg"].removeprefix("Value error, ") for e in errors)
    message = "; or ".join(dict.fromkeys(m[:1].lower() + m[1:] for m in messages))
    nearest = None
    if details["type"] == "literal_error" and isinstance(found, str):
        nearest = nearest_name(found, [part.strip("' ") for part in details["ctx"]["expected"].replace(" or ", ", ").split(",")])
    return str(InputError(message, where=path, found=None if found is None else repr(found), nearest=nearest))


def _without_types(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`loc` without the names of types that pydantic puts behind a field which takes several."""
    kept: list[int | str] = []
    current: type[BaseModel] | None = cls
    annotation: Any = None
    for part in loc:
        field = current.model_fields.get(str(part)) if current is not None else None
        if field is not None:
            annotation = field.annotation
            current = _config_class(annotation)
        elif sum(member is not NoneType for member in get_args(annotation)) > 1 and get_origin(annotation) in (Union, UnionType):
            annotation = None
            continue
        kept.append(part)
    return tuple(kept)


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the config that stands at `loc` below `cls`; empty where that is no config."""
    current: type[BaseModel] | None = cls
    for part in loc:
        field = current.model_fields.get(str(part)) if current is not None else None
        current = None if field is None else _config_class(field.annotation)
    return [] if current is None else sorted(current.model_fields)


def _config_class(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _config_class(argument)
        if found is not None:
            return found
    return None
