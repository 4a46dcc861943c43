"""The subject: which language model, and its tokenizer. The model itself is loaded in `sae.activations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sae.config import InputError, SweepableConfig


class SubjectConfig(SweepableConfig):
    """The language model whose activations are studied."""

    model: str = Field(default="data/subject", description="A model directory, or an id on the Hugging Face hub.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub; the newest if left out.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(default="float32", description="Of the weights while it runs.")
    trust_remote_code: bool = Field(default=False, description="Run code that the model's repository brings.")


def is_local(config: SubjectConfig) -> bool:
    """Whether the model is a directory here. What looks like a path must be one.

    Raises:
        InputError: it looks like a path, and there is no such directory.
    """
    if Path(config.model).is_dir():
        return True
    if config.model.startswith((".", "/", "~")) or config.model.count("/") != 1 or Path(config.model).parent.is_dir():
        parent = Path(config.model).expanduser().parent
        beside = [str(p) for p in parent.iterdir() if (p / "config.json").exists()] if parent.is_dir() else []
        raise InputError(
            "there is no such model directory",
            where="subject.model",
            found=config.model,
            expected="a directory with config.json, or an id like openai-community/gpt2",
            nearest=beside[0] if len(beside) == 1 else None,
        )
    return False


def load_tokenizer(config: SubjectConfig, revision: str | None = None) -> Any:
    """The subject's tokenizer.

    Args:
        config: which model.
        revision: commit that the model's revision was resolved to.
    """
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, config, revision)


def load_model_config(config: SubjectConfig, revision: str | None = None) -> Any:
    """The subject's own config."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, config, revision)


def context_length(model_config: Any) -> int | None:
    """The longest context that the model takes, or None if its config does not say."""
    text_config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def from_pretrained(factory: Any, config: SubjectConfig, revision: str | None, **more: Any) -> Any:
    """``factory.from_pretrained`` of the subject, with its errors as ours. ``HF_TOKEN`` opens gated models."""
    local = is_local(config)
    try:
        return factory.from_pretrained(
            config.model,
            revision=None if local else revision or config.revision,
            trust_remote_code=config.trust_remote_code,
            **more,
        )
    except (OSError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        kind = "directory" if local else "hub id"
        raise InputError(
            f"the model can't be loaded from this {kind}: {lines[0]}", where="subject.model", found=config.model
        ) from error
