"""The reference of params.yaml, written from the config classes: every key with its type, default and meaning."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.params import Params

HEAD = """# params.yaml

Every key, from the classes that read it (`python -m pipeline params` prints this page). Every section must be there, and
`run.threads`, which DVC watches by itself; any other key that is left out has its default. `optimizer.name` is the key `name`
in the section `optimizer` of the section. Write numbers as `3.0e-4`, with a point: some YAML readers take `3e-4` for text.
"""
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def reference() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for name, field in Params.model_fields.items():
        section = _section(field)
        assert section is not None
        parts += [f"\n## {name}\n\n{_first_line(section)}\n\n| key | type | default | meaning |\n|---|---|---|---|"]
        parts += _rows(section)
    return "\n".join(parts) + "\n"


def _rows(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A row for each key; a section within has a row that says what it is for, and its keys after it."""
    for name, field in section.model_fields.items():
        key = field.alias or name
        inner = _section(field)
        if inner is None:
            yield _row(f"{prefix}{key}", field)
            continue
        kind = "section" if inner is field.annotation else "list of sections" if _is_list(field) else "section, or null"
        default = "" if kind == "section" else "`[]`" if _is_list(field) else "`null`"
        within = f"{key}[]" if _is_list(field) else key
        yield f"| **`{prefix}{key}`** | {kind} |{f' {default}' if default else ''} | {field.description or _first_line(inner)} |"
        own = section.model_fields.keys() & inner.model_fields.keys() if _is_list(field) else set()  # they are explained already
        yield from (row for row in _rows(inner, f"{prefix}{within}.") if row.split("`")[1].rpartition(".")[2] not in own)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a section, also of one that may be left out or of which there is a list."""
    for cls in (field.annotation, *get_args(field.annotation)):
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            return cls
    return None


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _row(path: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if default is PydanticUndefined else f"`{_yaml(default)}`"
    return f"| `{path}` | {_kind(field.annotation, field.metadata)} | {shown} | {field.description or ''} |"


def _kind(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """A type in words, with its bounds: ``number > 0, or null``."""
    bounds = " and ".join(text for text in map(_bound, constraints) if text)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0], [*_plain(arguments[1:]), *constraints])
    if origin in (types.UnionType, typing.Union):
        kinds = list(dict.fromkeys(_kind(part, () if part is type(None) else constraints) for part in arguments))
        comma = "," if any(" or " in kind or " " in kind for kind in kinds) else ""
        return f"{comma} or ".join(kinds)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        kind = f"list of {_kind(arguments[0])}"
    elif origin is tuple:
        each = " or ".join(dict.fromkeys(map(_kind, arguments)))
        kind = f"list of {len(arguments)}, each {each}"
    elif origin is dict:
        kind = "mapping" if arguments[1] is Any else f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    else:
        kind = _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return f"{kind} {bounds}".rstrip()


def _plain(metadata: Sequence[Any]) -> Iterator[Any]:
    """The constraints themselves: within `Annotated` they stand inside a `Field`."""
    for entry in metadata:
        yield from entry.metadata if isinstance(entry, FieldInfo) else [entry]


def _bound(constraint: Any) -> str:
    return " and ".join(f"{sign} {getattr(constraint, key)}" for key, sign in _SIGNS.items() if hasattr(constraint, key))


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and abs(value) >= 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent):+d}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value) or "''"


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]
