"""What the report is made of: the files that the stages before it wrote, read into one typed object."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from pipeline.report.histogram import Histogram
from pipeline.sections import PARAMS_FILE, read_yaml
from sae.config import InputError

SAE_CONFIG = "data/sae/config.json"
TRAINING_METRICS = "data/train/metrics.json"
CURVES = "data/train/plots/metrics"
EVALUATION_METRICS = "data/evaluation/metrics.json"
HISTOGRAMS = "data/evaluation/histograms.json"
LATENTS = "data/evaluation/latents.json"

# How a run is carried out and what else is swept change no result, so the report does not depend on them: shown here, they
# would go stale without DVC seeing it.
SECTIONS_LEFT_OUT = ("run", "sweep")

Metrics = dict[str, Any]


class _Record(BaseModel):
    """Part of a file; a later version of it may hold more than is read here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Example(_Record):
    """A stretch of text around a high activation of one latent."""

    document: str
    position: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len(self.tokens) != len(self.activations):
            raise ValueError(f"{len(self.tokens)} tokens have {len(self.activations)} activations")
        if not 0 <= self.peak < len(self.tokens):
            raise ValueError(f"the peak, {self.peak}, is none of the {len(self.tokens)} tokens")
        return self


class Latent(_Record):
    """One latent with the examples that activate it most."""

    latent: int
    frequency: float
    max_activation: float
    examples: tuple[Example, ...]


class _Frequency(_Record):
    log10_edges: tuple[float, ...]
    counts: tuple[float, ...]
    never: int = 0


class _Histograms(_Record):
    frequency: _Frequency
    l0: Histogram


@dataclass(frozen=True)
class Curve:
    """One number of the training as it went, by step; a value may be NaN or infinite."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunData:
    """A finished run.

    Attributes:
        params: the sections of ``params.yaml`` that decide the result.
        sae: ``config.json`` of the saved SAE.
        training: final numbers of the training, by dotted name.
        curves: by name.
        evaluation: numbers measured on held-out tokens, by dotted name (``loss.spliced``).
        frequency: how many latents fire on which share of tokens; its edges are powers of ten.
        never: how many latents never fired.
        l0: how many tokens have how many active latents.
        latents: the latents that are shown, each with its examples.
    """

    params: dict[str, Any]
    sae: dict[str, Any]
    training: Metrics
    curves: tuple[Curve, ...]
    evaluation: Metrics
    frequency: Histogram
    never: int
    l0: Histogram
    latents: tuple[Latent, ...]

    def metric(self, name: str) -> float | None:
        """A number of the evaluation, or None where it was not measured."""
        return as_number(self.evaluation.get(name))

    @property
    def l0_target(self) -> float | None:
        """The number of active latents that the training aimed at, if it aimed at one."""
        section = self.params.get("train")
        return as_number(section.get("l0_target")) if isinstance(section, Mapping) else None

    @property
    def architecture(self) -> str:
        """The class of the SAE, without its module."""
        return str(self.sae.get("architecture", "SAE")).rpartition(":")[2]


def read_run(root: Path) -> RunData:
    """Read all that the report needs from the workspace `root`.

    Raises:
        InputError: a file is missing, or does not hold what its stage writes.
    """
    params = read_yaml(root / PARAMS_FILE)
    histograms = _validated(_Histograms, _json(root, HISTOGRAMS), HISTOGRAMS)
    # A run may log elsewhere than with DVCLive, and then leaves neither curves nor final numbers here: a choice, not a fault.
    logged = (root / TRAINING_METRICS).exists() or (root / CURVES).exists()
    frequency = {"edges": histograms.frequency.log10_edges, "counts": histograms.frequency.counts}
    return RunData(
        params={name: section for name, section in params.items() if name not in SECTIONS_LEFT_OUT},
        sae=_mapping(_json(root, SAE_CONFIG), SAE_CONFIG),
        training=_flatten(_mapping(_json(root, TRAINING_METRICS), TRAINING_METRICS)) if logged else {},
        curves=_read_curves(root),
        evaluation=_flatten(_mapping(_json(root, EVALUATION_METRICS), EVALUATION_METRICS)),
        frequency=_validated(Histogram, frequency, HISTOGRAMS),
        never=histograms.frequency.never,
        l0=histograms.l0.of_whole_numbers(),
        latents=_validated(tuple[Latent, ...], _json(root, LATENTS), LATENTS),
    )


def as_number(value: object) -> float | None:
    """`value` as a float, or None if it is no number. DVCLive writes what is not finite as a string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _read_curves(root: Path) -> tuple[Curve, ...]:
    folder = root / CURVES
    files = sorted(folder.rglob("*.tsv"), key=lambda file: file.relative_to(folder).parts)
    return tuple(_read_curve(root, file, file.relative_to(folder).with_suffix("").as_posix()) for file in files)


def _read_curve(root: Path, file: Path, name: str) -> Curve:
    where = file.relative_to(root).as_posix()
    header, *rows = list(csv.reader(_text(root, where).splitlines(), delimiter="\t")) or [[]]
    columns = [column for column in header if column not in ("step", "timestamp")]
    if "step" not in header or not columns:
        raise InputError(
            "this is no curve", where=where, found=header, expected="the columns step and " + name.rpartition("/")[2]
        )
    step_at, value_at = header.index("step"), header.index(columns[-1])
    points: dict[float, float] = {}
    for line, row in enumerate(rows, start=2):
        numbers = [as_number(row[at]) if at < len(row) else None for at in (step_at, value_at)]
        step, value = numbers
        if step is None or value is None or not math.isfinite(step):
            raise InputError("this row is no step and value", where=f"{where}:{line}", found=row)
        points[step] = value  # a resumed run logs some steps twice: what it wrote last is what happened
    steps = tuple(sorted(points))
    return Curve(name, steps, tuple(points[step] for step in steps))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Metrics:
    flat: Metrics = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is not None:  # null is what could not be measured: the loss of a model without a head
            flat[f"{prefix}{key}"] = value
    return flat


T = TypeVar("T")


def _validated(kind: type[T], data: object, where: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InputError(first["msg"].removeprefix("Value error, "), where=path, found=repr(first["input"])) from None


def _mapping(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError("this file holds keys and values", where=where, found=repr(data))
    return {str(key): value for key, value in data.items()}


def _json(root: Path, where: str) -> object:
    try:
        return json.loads(_text(root, where))
    except json.JSONDecodeError as error:
        raise InputError(f"this file is not whole JSON: {error}", where=where) from None


def _text(root: Path, where: str) -> str:
    try:
        return (root / where).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("this file is missing; the stage that writes it has not run", where=where) from None
    except UnicodeDecodeError as error:
        raise InputError(f"this file is not UTF-8 text: {error}", where=where) from None
    except OSError as error:
        raise InputError(f"this file can't be read: {error.strerror}", where=where) from None
