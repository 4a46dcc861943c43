"""The top of the page: what was run and how good it is, in one sentence and five figures."""

from __future__ import annotations

import math

from pipeline.report.chart import comparison
from pipeline.report.data import RunData, as_number
from pipeline.report.formats import number, percent, tick
from pipeline.report.markup import Child, Html, el, join


def subtitle(run: RunData) -> Html:
    """What was trained on what: architecture, shape, place in the language model."""
    d_in, d_sae = as_number(run.sae.get("d_in")), as_number(run.sae.get("d_sae"))
    parts: list[Child] = [el("strong", run.architecture)]
    if d_in and d_sae:
        parts.append(join(f"{number(d_sae)} latents for {number(d_in)} dimensions (×{number(d_sae / d_in)})"))
    hook_points = run.sae.get("hook_points")
    if isinstance(hook_points, list) and hook_points:
        reads: list[Child] = ["reads "]
        for index, point in enumerate(hook_points):
            reads += [", " if index else "", el("code", str(point))]
        subject = run.params.get("subject")
        if isinstance(subject, dict) and subject.get("model"):
            reads += [" of ", el("code", str(subject["model"]))]
        parts.append(reads)
    return el("p", *(el("span", part) for part in parts), class_="subtitle")


def verdict(run: RunData) -> Html:
    """The evaluation in plain words; what was not measured is not spoken of."""
    tokens, l0, fvu = run.metric("tokens"), run.metric("l0"), run.metric("fvu")
    sentences: list[Child] = []
    if l0 is not None and math.isfinite(l0):
        latents = as_number(run.sae.get("d_sae"))
        where = f"On {number(tokens)} held-out tokens, " if tokens is not None else "On held-out tokens, "
        among = f" of {number(latents)}" if latents is not None else ""
        sentences += [where, el("strong", number(l0), among, " latents"), " are active at a time. "]
    if fvu is not None and math.isfinite(fvu):
        sentences += ["They explain ", el("strong", percent(1 - fvu), " of the variance")]
        pca, components = run.metric("pca.fvu"), run.metric("pca.components")
        if pca is not None and math.isfinite(pca):
            sentences.append(f", where PCA with {number(components)} components explains {percent(1 - pca)}")
        sentences.append(". ")
    original, spliced = run.metric("loss.original"), run.metric("loss.spliced")
    if original is not None and spliced is not None and math.isfinite(original + spliced):
        change = f"{number(original)} to {number(spliced)}"
        sentences += [
            "With their reconstruction in its place, the language model’s loss goes from ",
            el("strong", change),
            " nats.",
        ]
    return el("p", sentences, class_="verdict") if sentences else Html()


def figures(run: RunData) -> Html:
    """The headline figures, each with its definition in one line."""
    return el("div", _l0(run), _fvu(run), _loss(run), _dead(run), _tokens(run), class_="figures")


def _figure(name: str, value: str, definition: Child, *more: Child, class_: str = "") -> Html:
    head = [el("h3", name), el("p", value, class_="value")]
    return el("section", head, more, el("p", definition, class_="definition"), class_=f"figure {class_}".strip())


def _l0(run: RunData) -> Html:
    target = run.l0_target
    aside = el("p", f"target {number(target)}", class_="aside") if target is not None else Html()
    return _figure("L0", number(run.metric("l0")), "Mean number of non-zero latents per token.", aside)


def _fvu(run: RunData) -> Html:
    fvu, pca = run.metric("fvu"), run.metric("pca.fvu")
    formula = el("span", "Σ‖x − x̂‖² / Σ‖x − x̄‖²", class_="formula whole")
    rows = [("SAE", fvu, "")] if fvu is not None else []
    if pca is not None:
        rows.append((f"PCA, k = {number(run.metric('pca.components'))}", pca, "baseline"))
    bars = comparison(rows, full=max([1.0, *(value for _, value, _ in rows if math.isfinite(value))]))
    definition = join(
        "Fraction of variance unexplained: ",
        formula,
        " over all held-out tokens. Less is better; PCA with k components is the baseline.",
    )
    return _figure("FVU", number(fvu), definition, bars, class_="broad")


def _loss(run: RunData) -> Html:
    names = (
        ("original", "original", ""),
        ("spliced", "with the SAE", ""),
        ("mean_ablation", "mean ablation", "baseline"),
        ("zero_ablation", "zero ablation", "baseline"),
    )
    rows = [(label, value, class_) for key, label, class_ in names if (value := run.metric(f"loss.{key}")) is not None]
    if not rows:  # a model without a head predicts nothing
        return Html()
    bars = comparison(rows, full=max((value for _, value, _ in rows if math.isfinite(value)), default=1.0))
    mean = run.metric("loss.recovered_mean")
    aside = el("p", f"{percent(mean)} against mean ablation", class_="aside") if mean is not None else Html()
    formula = el("span", "(ablated − spliced) / (ablated − original)", class_="formula")
    definition = join(formula, ", here against zero ablation. Bars: the language model’s loss in nats per token.")
    return _figure("Loss recovered", percent(run.metric("loss.recovered_zero")), definition, aside, bars, class_="broad")


def _dead(run: RunData) -> Html:
    share = run.metric("dead_share")
    aside = el("p", f"{percent(share)} of all", class_="aside") if share is not None else Html()
    return _figure(
        "Dead latents", number(run.metric("dead_latents")), "Latents that fired on none of the held-out tokens.", aside
    )


def _tokens(run: RunData) -> Html:
    cosine = run.metric("cosine")
    aside = el("p", f"cosine {number(cosine)}", class_="aside", title="mean cosine of x and x̂") if cosine is not None else Html()
    tokens = run.metric("tokens")
    short = tick(tokens) if tokens is not None and tokens >= 1e6 else number(tokens)
    return _figure("Tokens", short, "Held-out tokens that all these figures were measured on.", aside)
