"""The reference of params.yaml, written from the config classes: every key with its type, default and meaning."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.params import Params

HEAD = """# params.yaml

Every key, from the classes that read it (`python -m pipeline params` prints this page). A section must be there; a key that
is left out has its default. Write numbers as `3.0e-4`, with a point: some YAML readers take `3e-4` for text.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for name, field in Params.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        parts += [f"\n## {name}\n\n{_first_line(section)}\n\n| key | type | default | meaning |\n|---|---|---|---|"]
        parts += [_row(path, entry) for path, entry in _leaves(section)]
    return "\n".join(parts) + "\n"


def _leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _row(path: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if default is PydanticUndefined else _yaml(default)
    bounds = [text for text in map(_bound, field.metadata) if text]
    kind = " ".join([_kind(field.annotation), *bounds])
    return f"| `{path}` | {kind} | `{shown}` | {field.description or ''} |"


def _bound(constraint: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return " ".join(f"{sign} {getattr(constraint, key)}" for key, sign in signs.items() if hasattr(constraint, key))


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin is typing.Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_kind(part) for part in get_args(annotation)))
    if origin is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    if origin is tuple:
        return "list of " + ", ".join(_kind(part) for part in get_args(annotation))
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]
