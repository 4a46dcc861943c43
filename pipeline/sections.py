"""Reading sections of params.yaml. A stage reads its own sections and no others, so that it depends on no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sae.config import InputError, parse_config

C = TypeVar("C", bound=BaseModel)

PARAMS_FILE = "params.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 file, read as DVC reads it.

    Raises:
        InputError: it is missing, no valid YAML, or no mapping.
    """
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("this file is missing", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"this file is not UTF-8 text: {error}", where=str(path)) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"this is no valid YAML{place}: {getattr(error, 'problem', error)}", where=str(path)) from None
    if not isinstance(data, dict):
        raise InputError("this file holds no sections", where=str(path), found=data)
    return data


def read_section(root: Path, name: str, cls: type[C]) -> C:
    """One section of params.yaml, checked; its defaults if it is left out."""
    return parse_config(cls, read_yaml(root / PARAMS_FILE).get(name), name)
