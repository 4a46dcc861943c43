from __future__ import annotations

import doctest
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import formats, page
from pipeline.report.build import build
from pipeline.report.config import ReportConfig
from pipeline.report.data import CURVES, EVALUATION_METRICS, HISTOGRAMS, LATENTS, read_run
from pipeline.report.latents import LEVELS, shade
from pipeline.report.markup import Html, el, printable

VOID = {"meta", "link", "br", "path", "rect"}
LATER_LIMIT = 5 * 1024 * 1024  # what a page of all latents may weigh; this one has twenty


class Page(HTMLParser):
    """A page as the elements in it; fails on an element that is not closed, or closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # of each element, in the order of `elements`, all below it included
        self.parents: list[int] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, f"{[self.elements[at][0] for at in self._open]} stay open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self.parents.append(self._open[-1] if self._open else -1)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.elements[self._open[-1]][0] == tag, f"</{tag}> closes <{self.elements[self._open[-1]][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        # Only the marks in front of line breaks and tabs are <i>: they are no part of a token.
        inside = [self.elements[at][0] for at in self._open]
        for at in [] if "i" in inside else self._open:
            self.texts[at] += data

    def find(self, tag: str, **wanted: str) -> Iterator[tuple[dict[str, str | None], str]]:
        for (name, attributes), text in zip(self.elements, self.texts, strict=True):
            if name == tag and all(value in (attributes.get(key.strip("_")) or "").split() for key, value in wanted.items()):
                yield attributes, text

    def tokens(self) -> list[list[tuple[str, dict[str, str | None]]]]:
        """The tokens of each example, with their attributes."""
        examples: dict[int, list[tuple[str, dict[str, str | None]]]] = {}
        for at, (tag, _) in enumerate(self.elements):
            if tag == "code" and self.elements[self.parents[at]][0] == "pre":
                examples[at] = []
        for parent, (tag, attributes), text in zip(self.parents, self.elements, self.texts, strict=True):
            if parent in examples:
                assert tag in ("span", "mark")
                examples[parent].append((text, attributes))
        return list(examples.values())


Render = Callable[..., str]


@pytest.fixture
def render(run_root: Path) -> Render:
    """The text of the page for the run as it is on disk now."""

    def rendered(**options: Any) -> str:
        return page.render(read_run(run_root), ReportConfig(**options)).encode().decode()

    return rendered


def stored_latents(root: Path) -> list[dict[str, Any]]:
    latents: list[dict[str, Any]] = json.loads((root / LATENTS).read_text())
    return latents


def test_every_metric_stands_in_the_page(render: Render) -> None:
    shown = {attributes["data-metric"]: text for attributes, text in Page(render()).find("td")}
    assert shown["fvu"] == "0.2134"
    assert shown["tokens"] == "100,000"
    assert shown["dead_share"] == "0.0078125"
    assert shown["loss.zero_ablation"] == "8.1377"
    assert shown["pca.components"] == "15"
    assert shown["train.loss"] == "0.3127"
    assert shown["something_new"] == shown["gradient"] == "not finite"
    assert len(shown) == 14 + 1 + 5


def test_headline_figures_come_with_baseline_and_definition(render: Render) -> None:
    figures = [text for _, text in Page(render()).find("section", class_="figure")]
    l0, fvu, loss, dead, tokens = figures
    assert l0.startswith("L015.2target 16")
    assert "0.213" in fvu
    assert "PCA, k = 150.450" in fvu
    assert "Σ‖x − x̂‖² / Σ‖x − x̄‖²" in fvu
    assert "97.9\N{NO-BREAK SPACE}%96.4\N{NO-BREAK SPACE}% against mean ablation" in loss
    assert "(ablated − spliced) / (ablated − original)" in loss
    assert dead.startswith("Dead latents120.78\N{NO-BREAK SPACE}% of all")
    assert tokens.startswith("Tokens100,000cosine 0.891")


def test_a_model_without_a_loss_has_no_figure_of_it(render: Render, run_root: Path) -> None:
    metrics = json.loads((run_root / EVALUATION_METRICS).read_text()) | {"loss": None}
    (run_root / EVALUATION_METRICS).write_text(json.dumps(metrics))
    page = Page(render())
    assert [text[:2] for _, text in page.find("section", class_="figure")] == ["L0", "FV", "De", "To"]
    assert "nats" not in next(text for _, text in page.find("p", class_="verdict"))
    assert not [attributes for attributes, _ in page.find("td") if str(attributes["data-metric"]).startswith("loss")]


def test_tokens_are_complete_and_escaped(render: Render, run_root: Path) -> None:
    parsed = Page(render())
    examples = [example for latent in stored_latents(run_root) for example in latent["examples"]]
    shown = parsed.tokens()
    assert len(shown) == len(examples) == 160
    for example, tokens in zip(examples, shown, strict=True):
        assert [text for text, _ in tokens] == [printable(token) for token in example["tokens"]]
        peaks = [at for at, (_, attributes) in enumerate(tokens) if "peak" in (attributes.get("class") or "")]
        assert peaks == [example["peak"]]


def test_token_carries_shade_and_value(render: Render, run_root: Path) -> None:
    parsed = Page(render())
    latents = stored_latents(run_root)
    first = parsed.tokens()[0]
    for (_, attributes), activation in zip(first, latents[0]["examples"][0]["activations"], strict=True):
        level = shade(activation, latents[0]["max_activation"])
        assert (f"a{level}" in (attributes.get("class") or "").split()) == (level > 0)
        assert ("title" in attributes) == (activation != 0)
    assert first[3][1]["title"] == "not finite"


@pytest.mark.parametrize(
    ("activation", "maximum", "level"),
    [(0, 8, 0), (-1, 8, 0), (0.01, 8, 1), (8, 8, LEVELS), (9, 8, LEVELS), (4, 8, 5), (1, 0, 0), (float("nan"), 8, 0)],
)
def test_shade_is_relative_to_the_latents_maximum(activation: float, maximum: float, level: int) -> None:
    assert shade(activation, maximum) == level


def test_page_refers_to_nothing_outside(render: Render) -> None:
    text = render()
    assert not re.search(r"https?://", text)
    for tag, attributes in Page(text).elements:
        assert tag not in {"img", "iframe", "object", "embed", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_page_has_one_title_and_headings_in_order(render: Render) -> None:
    parsed = Page(render(title="Mine & <yours>"))
    assert [text for _, text in parsed.find("h1")] == ["Mine & <yours>"]
    assert next(text for _, text in parsed.find("title")) == "Mine & <yours>"
    assert [text for _, text in parsed.find("h2")] == ["Quality", "Training", "Activity", "Latents", "Parameters", "Lineage"]
    anchors = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    assert {(attributes["href"] or "")[1:] for attributes, _ in parsed.find("a")} <= anchors


def test_each_chart_tells_its_values_without_a_picture(render: Render) -> None:
    plots = [attributes for attributes, _ in Page(render()).find("div", class_="plot")]
    assert len(plots) == 10
    for attributes in plots:
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
        hover = json.loads(attributes["data-hover"] or "", parse_constant=pytest.fail)
        assert len(hover["x"]) == len(hover["y"]) == len(hover["t"]) > 0
        assert all(-0.001 <= place <= 1.001 for place in hover["x"] + hover["y"])


def test_curves_are_drawn_apart_where_a_value_is_not_finite(render: Render) -> None:
    text = render()
    assert text[text.index('data-curve="gradient"') :].split("</figure>")[0].count('class="curve"') == 2
    assert text[text.index('data-curve="train/loss"') :].split("</figure>")[0].count('class="curve"') == 1


def test_parameters_and_lineage_are_shown_as_they_are(render: Render) -> None:
    parsed = Page(render())
    rows = [text for attributes, text in parsed.find("div") if not attributes]
    assert "lr0.0003" in rows
    assert "held_out0.1" in rows
    assert "revisionnull" in rows
    assert "tied_inittrue" in rows
    assert "betas0.9, 0.999" in rows
    assert any(row.startswith("activations61637469") and len(row) == len("activations") + 64 for row in rows)
    assert not any("cuda" in row for row in rows)


def test_number_of_open_examples_follows_the_config(render: Render) -> None:
    for examples, summary in ((1, "7 more examples"), (7, "1 more example")):
        parsed = Page(render(examples=examples))
        assert [text for _, text in parsed.find("summary")].count(summary) == 20
    assert not any("more example" in text for _, text in Page(render(examples=8)).find("summary"))


def test_equal_runs_give_equal_bytes(tmp_path: Path, write_run: Callable[[Path], Path]) -> None:
    built = []
    for name in ("one", "other"):
        out = tmp_path / f"{name}-report"
        out.mkdir()
        build(write_run(tmp_path / name), out, ReportConfig())
        built.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert built[0] == built[1]
    assert sorted(built[0]) == ["frequency.png", "index.html", "l0.png", "summary.png", "training.png"]
    assert len(built[0]["index.html"]) < LATER_LIMIT / 5


def test_run_with_little_measured_still_gives_a_page(render: Render, run_root: Path) -> None:
    (run_root / EVALUATION_METRICS).write_text('{"l0": NaN}')
    (run_root / LATENTS).write_text("[]")
    for file in (run_root / CURVES).rglob("*.tsv"):
        file.unlink()
    text = render()
    Page(text)
    assert "logged no curves" in text
    assert "recorded no latent" in text


def test_every_token_with_the_same_l0_is_said_so(render: Render, run_root: Path) -> None:
    histograms = json.loads((run_root / HISTOGRAMS).read_text())
    histograms["l0"]["counts"] = [100.0 * (number == 16) for number in range(49)]
    (run_root / HISTOGRAMS).write_text(json.dumps(histograms))
    assert "Every token has exactly <strong>16</strong> active latents." in render()


def test_markup_escapes_what_is_not_markup() -> None:
    assert el("b", 'a "quote" & <tag>', Html("<i>x</i>"), title='"') == (
        '<b title="&quot;">a &quot;quote&quot; &amp; &lt;tag&gt;<i>x</i></b>'
    )
    assert printable("\ud83e\udd8a \ud83d \x00") == "🦊 � ␀"


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(formats).failed == 0
