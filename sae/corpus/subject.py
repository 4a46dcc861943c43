"""The subject: which language model, and its tokenizer. The model itself is loaded in `sae.activations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sae.config import InputError, SweepableConfig

Kind = Literal["causal", "masked", "encoder"]


class SubjectConfig(SweepableConfig):
    """The language model whose activations are studied."""

    model: str = Field(default="data/subject", description="A model directory, or an id on the Hugging Face hub.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub; the newest if left out.")
    kind: Literal["auto", "causal", "masked", "encoder"] = Field(
        default="auto",
        description="`causal` predicts the next token, `masked` those that are masked out, `encoder` none (it has no head); "
        "`auto` goes by the model's own config.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(default="float32", description="Of the weights while it runs.")
    device_map: str | dict[str, int | str] | None = Field(
        default=None,
        description="For a model larger than one device: `auto`, or a device for each module. Needs the package accelerate.",
    )
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


def model_kind(config: SubjectConfig, model_config: Any) -> Kind:
    """Which kind of model this is: as the user says, or else what its weights were saved as.

    Args:
        config: which model.
        model_config: its own config.
    """
    if config.kind != "auto":
        return config.kind
    from transformers.models.auto import modeling_auto as auto

    mappings: dict[Kind, Any] = {
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        "masked": auto.MODEL_FOR_MASKED_LM_MAPPING,
        "encoder": auto.MODEL_MAPPING,
    }
    saved_as = set(getattr(model_config, "architectures", None) or [])
    own_code = getattr(model_config, "auto_map", None) or {}
    known: list[Kind] = []
    for kind, mapping in mappings.items():
        names = _class_names(mapping, model_config)
        own = own_code.get(auto_class(kind))
        if own is not None:
            names = {str(own).rpartition(".")[2]}
        if saved_as & names:
            return kind
        known += [kind] if names else []
    if saved_as and not saved_as & _class_names(auto.MODEL_FOR_PRETRAINING_MAPPING, model_config):
        # Weights of another task: a language model's head would be of random weights.
        return "encoder" if "encoder" in known and not getattr(model_config, "is_encoder_decoder", False) else "causal"
    if "masked" in known and not getattr(model_config, "is_decoder", False):
        return "masked"
    return next(iter(known), "causal")


def auto_class(kind: Kind) -> str:
    """The class of transformers that loads a kind of model."""
    return {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "encoder": "AutoModel"}[kind]


def _class_names(mapping: Any, model_config: Any) -> set[str]:
    """What transformers' own table names for this class of config; nothing where it has none."""
    found = mapping.get(type(model_config), ())
    return {cls.__name__ for cls in (found if isinstance(found, tuple | list) else (found,))}


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
