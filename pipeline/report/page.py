"""The page: one HTML file that holds its own styles, script and data, and asks no network for anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from pipeline.report.chart import curve_chart, frequency_chart, l0_chart
from pipeline.report.config import ReportConfig
from pipeline.report.curves import MAIN_CURVES, in_order, target_of
from pipeline.report.data import RunData
from pipeline.report.formats import number, percent
from pipeline.report.headline import figures, subtitle, verdict
from pipeline.report.latents import latent_section
from pipeline.report.markup import Html, el, escape, join
from pipeline.report.tables import lineage, metric_tables, parameter_tables

_DENSE = -1.0  # log10 of the share of tokens from which a latent is called dense


def render(run: RunData, config: ReportConfig) -> str:
    """The whole page as text."""
    sections = [
        _Section("quality", "Quality", "Measured on held-out tokens, from documents that training never saw.", _quality(run)),
        _Section("training", "Training", "As it was logged, step by step.", _training(run)),
        _Section("activity", "Activity", "How often latents fire, and how many at a time.", _activity(run)),
        _Section("latents", "Latents", "The text that activates each latent most.", latent_section(run.latents, config.examples)),
        _Section("parameters", "Parameters", "params.yaml, the sections that decide the result.", parameter_tables(run)),
        _Section("lineage", "Lineage", "What the result was made from.", lineage(run)),
    ]
    links = [el("a", section.title, href=f"#{section.anchor}") for section in sections]
    return Template(_resource("page.html")).substitute(
        title=escape(config.title),
        style=_resource("page.css"),
        script=_resource("page.js"),
        navigation=join(links),
        subtitle=subtitle(run),
        verdict=verdict(run),
        sections=join(section.markup() for section in sections),
    )


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    about: str
    body: Html

    def markup(self) -> Html:
        head = el("header", el("h2", self.title), el("p", self.about))
        return el("section", head, self.body, id=self.anchor, class_="part")


def _quality(run: RunData) -> Html:
    every = el("details", el("summary", "Every metric"), metric_tables(run), class_="all-metrics")
    return join(figures(run), every)


def _training(run: RunData) -> Html:
    curves = in_order(run.curves)
    if not curves:
        return el("p", "This run logged no curves with DVCLive.", class_="empty")
    charts = [curve_chart(curve, target_of(curve, run), held_out) for curve, held_out in curves]
    parts = [el("div", charts[:MAIN_CURVES], class_="charts")]
    if more := charts[MAIN_CURVES:]:
        summary = el("summary", f"{len(more)} more curve{'s' if len(more) > 1 else ''}")
        parts.append(el("details", summary, el("div", more, class_="charts")))
    return join(parts)


def _activity(run: RunData) -> Html:
    return el(
        "div",
        el(
            "section",
            el("h3", "How often latents fire"),
            el("p", _frequency_note(run)),
            frequency_chart(run.frequency, run.never),
        ),
        el("section", el("h3", "How many fire at once"), el("p", _l0_note(run)), l0_chart(run.l0, run.metric("l0"))),
        class_="charts two",
    )


def _frequency_note(run: RunData) -> Html:
    histogram = run.frequency
    if not histogram.total:
        return join(f"No latent fires; {number(run.never)} never do.")
    dense = sum(count for low, _, count in histogram.bins() if low >= _DENSE - 1e-9)
    return join(
        "The median latent fires on about ",
        el("strong", percent(10 ** histogram.quantile(0.5))),
        f" of tokens; {number(run.never)} never fire, {number(dense)} fire on more than {percent(10**_DENSE)}.",
    )


def _l0_note(run: RunData) -> Html:
    if not run.l0.total:
        return join("No token was counted.")
    filled = [(low, high) for low, high, count in run.l0.bins() if count]
    if len(filled) == 1 and filled[0][1] - filled[0][0] <= 1:
        return join("Every token has exactly ", el("strong", number(math.ceil(filled[0][0]))), " active latents.")
    low, middle, high = (number(round(run.l0.quantile(share))) for share in (0.05, 0.5, 0.95))
    return join("Half of the tokens have at most ", el("strong", middle), f" active latents; nine in ten have {low} to {high}.")


def _resource(name: str) -> str:
    return files("pipeline.report").joinpath(name).read_text(encoding="utf-8")
