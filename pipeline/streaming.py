"""Training from a stream: the source that the stage `activations` left word of."""

from __future__ import annotations

from transformers.utils import logging as transformers_logging

from pipeline.capturing import STREAM, inputs_of
from pipeline.stage import StageContext
from sae.activations.capture import ActivationsConfig
from sae.activations.model import load_model
from sae.activations.stream import StreamSource
from sae.config import Failure
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import TokenSet


def open_stream(ctx: StageContext, hook_points: list[str] | None, target_hook_points: list[str] | None) -> StreamSource:
    """What `save_stream` left word of, as a source.

    Raises:
        Failure: the tokens or the subject are no longer those that the stage `activations` saw.
    """
    word = ctx.read_json(f"data/activations/train/{STREAM}")
    if inputs_of(ctx, "train") != word["inputs"]:
        raise Failure("the stream's tokens or subject have changed", where="data/activations", expected="dvc repro activations")
    transformers_logging.disable_progress_bar()
    config, subject = ActivationsConfig(**word["activations"]), SubjectConfig(**word["subject"])
    model = load_model(subject, word["revision"], ctx.run.torch_device())
    return StreamSource(model, TokenSet.load(ctx.root / "data/tokens/train"), config, hook_points, target_hook_points)
