"""Keys and values: the parameters as they were, the lineage of the run, and every metric that was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.data import RunData, as_number
from pipeline.report.formats import plain, precise
from pipeline.report.markup import Child, Html, el

_CHAIN = ("subject", "tokens", "activations")  # each is made from the one before; the SAE comes last
_SHORT_HASH = 12


def metric_tables(run: RunData) -> Html:
    """All numbers of the evaluation and of the end of the training."""
    return el(
        "div",
        _metric_table("Evaluation", run.evaluation),
        _metric_table("End of training", run.training),
        class_="columns",
    )


def parameter_tables(run: RunData) -> Html:
    """The sections of ``params.yaml``, one card each."""
    cards = []
    for name, section in run.params.items():
        body = tree(section) if isinstance(section, Mapping) and section else el("p", _leaf(section))
        cards.append(el("section", el("h3", name), body, class_="card"))
    return el("div", cards, class_="columns")


def lineage(run: RunData) -> Html:
    """Where the SAE comes from: the chain of hashes, then its own configuration."""
    hashes = run.sae.get("lineage")
    hashes = hashes if isinstance(hashes, Mapping) else {}
    own = {key: value for key, value in run.sae.items() if key != "lineage"}
    chain: list[Child] = [_link(name, str(hashes[name])) for name in _CHAIN if name in hashes]
    chain.append(_link("sae", run.architecture))
    full = tree(hashes) if hashes else el("p", "The saved SAE names no lineage.", class_="empty")
    cards = [
        el("section", el("h3", "Hashes"), full, class_="card hashes"),
        el("section", el("h3", "Saved SAE"), tree(own), class_="card"),
    ]
    return el("div", el("ol", chain, class_="chain"), el("div", cards, class_="columns"), class_="lineage")


def tree(values: Mapping[Any, Any]) -> Html:
    """Nested keys and values as nested description lists, in the order they stand in."""
    rows = []
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            rows.append(el("div", el("dt", str(key)), el("dd", tree(value)), class_="branch"))
        else:
            rows.append(el("div", el("dt", str(key)), el("dd", _leaf(value))))
    return el("dl", rows, class_="tree")


def _leaf(value: object) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "[]"
    return plain(value)


def _link(name: str, value: str) -> Html:
    short = value if len(value) <= _SHORT_HASH or name == "sae" else value[:_SHORT_HASH] + "…"
    return el("li", el("span", name), el("code", short, title=value if short != value else None))


def _metric_table(title: str, metrics: Mapping[str, Any]) -> Html:
    rows = []
    for name, value in metrics.items():
        prefix, dot, last = name.rpartition(".")
        label = [el("span", prefix + dot, class_="prefix"), last] if prefix else [last]
        size = as_number(value)
        shown = precise(size) if size is not None else _leaf(value)
        rows.append(el("tr", el("th", label, scope="row"), el("td", shown, title=plain(value), data_metric=name)))
    body = el("table", el("tbody", rows)) if rows else el("p", "Nothing was written.", class_="empty")
    return el("section", el("h3", title), body, class_="card")
