"""The latents with their examples: source text, each token coloured by how strongly it activates the latent."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.data import Example, Latent
from pipeline.report.formats import number, percent
from pipeline.report.markup import Child, Html, el, escape

LEVELS = 9  # shades; page.css has one class for each, a1 to a9


def latent_section(latents: Sequence[Latent], open_examples: int) -> Html:
    """All latents that the evaluation chose, with an index and the key to the colours."""
    if not latents:
        return el("p", "The evaluation recorded no latent with examples.", class_="empty")
    index = [el("a", str(latent.latent), href=f"#latent-{latent.latent}") for latent in latents]
    shades = [el("span", class_=f"a{level}") for level in range(1, LEVELS + 1)]
    key = el(
        "p",
        el("span", "0"),
        el("span", shades, class_="shades", aria_hidden="true"),
        el("span", "the latent’s maximum"),
        el("span", el("mark", "peak", class_="peak"), " the token it was picked for", class_="key-peak"),
        class_="key",
    )
    cards = [_latent(latent, open_examples) for latent in latents]
    return el("div", key, el("nav", index, class_="index", aria_label="Latents"), cards, class_="latents")


def _latent(latent: Latent, open_examples: int) -> Html:
    examples = [_example(example, latent.max_activation) for example in latent.examples]
    shown, more = examples[:open_examples], examples[open_examples:]
    body: list[Child] = [el("div", shown, class_="examples")]
    if more:
        text = f"{len(more)} more example{'s' if len(more) > 1 else ''}"
        body.append(el("details", el("summary", text), el("div", more, class_="examples")))
    if not examples:
        body = [el("p", "No example was recorded.", class_="empty")]
    facts = el(
        "dl",
        el("div", el("dt", "fires on"), el("dd", percent(latent.frequency), " of tokens")),
        el("div", el("dt", "that is"), el("dd", _one_in(latent.frequency))),
        el("div", el("dt", "maximum"), el("dd", number(latent.max_activation))),
    )
    head = el("header", el("h3", el("small", "Latent "), str(latent.latent)), facts)
    return el("article", head, el("div", body, class_="body"), class_="latent", id=f"latent-{latent.latent}")


def _one_in(frequency: float) -> str:
    if not math.isfinite(frequency) or frequency <= 0:
        return "never seen"
    return f"1 in {number(round(1 / frequency))}"


def _example(example: Example, maximum: float) -> Html:
    tokens = [
        _token(token, activation, maximum, peak=index == example.peak)
        for index, (token, activation) in enumerate(zip(example.tokens, example.activations, strict=True))
    ]
    caption = el(
        "figcaption",
        el("span", example.document, class_="document"),
        el("span", f"token {number(example.position)}", class_="position"),
        el("span", number(example.activations[example.peak]), class_="value", title="activation at the peak"),
    )
    return el("figure", caption, el("pre", el("code", tokens)), class_="example")


def _token(token: str, activation: float, maximum: float, peak: bool) -> Html:
    level = shade(activation, maximum)
    classes = " ".join([f"a{level}"] * (level > 0) + ["peak"] * peak)
    title = number(activation, 4) if activation != 0 or peak else None
    return el("mark" if peak else "span", _visible(token), class_=classes or None, title=title)


def shade(activation: float, maximum: float) -> int:
    """The shade of a token, 0 (not active) to `LEVELS` (the latent's maximum)."""
    if not (math.isfinite(activation) and math.isfinite(maximum)) or activation <= 0 or maximum <= 0:
        return 0
    return max(1, min(LEVELS, math.ceil(LEVELS * activation / maximum)))


def _visible(token: str) -> Html:
    """The text of a token with a sign for each line break and tab, in front of the break or tab itself."""
    return Html(escape(token).replace("\n", "<i>↵</i>\n").replace("\t", "<i>⇥</i>\t"))
