"""Loading the subject model, and reaching into it: hook points by module path, reading and replacing what passes there.

Shapes: S sequences of C tokens, D dimensions of an activation.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sae.config import InputError, nearest_name
from sae.corpus.subject import SubjectConfig, auto_class, from_pretrained, load_model_config, model_kind


class StopForward(Exception):
    """Raised inside a forward pass when all that was wanted has been seen."""


def load_model(config: SubjectConfig, revision: str | None, device: torch.device) -> nn.Module:
    """The subject as the kind of model that it is, frozen, in evaluation mode.

    Args:
        config: which model.
        revision: commit that the model's revision was resolved to.
        device: where it goes, unless the config says which part of it goes where.

    Raises:
        InputError: there is no such model, or its parts can't go where they are to.
    """
    import transformers

    factory = getattr(transformers, auto_class(model_kind(config, load_model_config(config, revision))))
    dtype = getattr(torch, config.dtype)
    if config.device_map is None:
        model: nn.Module = from_pretrained(factory, config, revision, dtype=dtype)
        return model.to(device).eval().requires_grad_(False)
    if importlib.util.find_spec("accelerate") is None:
        raise InputError("this needs the package accelerate", where="subject.device_map", expected="pip install accelerate")
    try:
        model = from_pretrained(factory, config, revision, dtype=dtype, device_map=config.device_map)
    except (RuntimeError, AssertionError) as error:  # torch says so of a device that is not there
        raise InputError(
            f"the model can't be spread like this: {error}", where="subject.device_map", found=config.device_map
        ) from error
    return model.eval().requires_grad_(False)


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be: with the model's input embedding, which need not be where the rest of it is."""
    embedding: nn.Module = getattr(model, "get_input_embeddings", lambda: model)()
    device: torch.device = next(embedding.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device  # weights that are fetched when needed come to their input


class HookPoint:
    """A place in a model: the output of a module, ``model.layers.2``, or its input, ``model.layers.2.input``.

    Where a module returns a tuple, its first element is meant.

    Raises:
        InputError: the model has no such module; those it has are listed.
    """

    def __init__(self, model: nn.Module, name: str, where: str = "activations.hook_points") -> None:
        self.name = name
        modules = dict(model.named_modules())
        path, self.is_input = name, False
        if path not in modules and path.endswith((".input", ".output")):
            path, _, kind = path.rpartition(".")
            self.is_input = kind == "input"
        if path not in modules or not path:
            blocks = [n for n in modules if n and n.rpartition(".")[2].isdigit()]
            raise InputError(
                "the model has no module of this name",
                where=where,
                found=name,
                expected="a module such as " + ", ".join(blocks or [n for n in modules if n]),
                nearest=nearest_name(path, modules),
            )
        self.module = modules[path]

    @contextmanager
    def hooked(self, visit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """While the block runs, call ``visit(x)`` with what passes here; a tensor that it returns takes its place."""

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                replacement = visit(args[0])
                return None if replacement is None else ((replacement, *args[1:]), kwargs)
            name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            replacement = visit(kwargs[name])
            return None if replacement is None else (args, kwargs | {name: replacement})

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            replacement = visit(x)
            if replacement is None:
                return None
            return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

        handle = (
            self.module.register_forward_pre_hook(before, with_kwargs=True)
            if self.is_input
            else self.module.register_forward_hook(after)
        )
        try:
            yield
        finally:
            handle.remove()


def forward(model: nn.Module, tokens_SC: Tensor, attention_SC: Tensor | None = None) -> Any:
    """One forward pass over sequences of equal length, with no attention cache kept.

    Args:
        model: the subject.
        tokens_SC: token ids on the device of the model's input embedding.
        attention_SC: which of them are no padding; None for all.
    """
    options: dict[str, Any] = {} if attention_SC is None else {"attention_mask": attention_SC.to(tokens_SC.device).long()}
    if "use_cache" in inspect.signature(model.forward).parameters:  # an encoder has no cache, and may refuse the word
        options["use_cache"] = False
    return model(input_ids=tokens_SC, **options)


@torch.no_grad()
def read_activations(
    model: nn.Module, hook_points: list[HookPoint], tokens_SC: Tensor, attention_SC: Tensor | None = None
) -> dict[str, Tensor]:
    """Activations [S, C, D] at every hook point; the forward pass ends at the last of them.

    Args:
        model: the subject.
        hook_points: places in it.
        tokens_SC: token ids on the device of the model's input embedding.
        attention_SC: which of them are no padding; None for all.
    """
    seen: dict[str, Tensor] = {}

    def visit(name: str) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[:2] != tokens_SC.shape:
                raise InputError(
                    "no activations pass here",
                    where="activations.hook_points",
                    found=f"{name}: {list(x.shape) if isinstance(x, Tensor) else type(x).__name__}",
                    expected="a tensor [sequences, tokens, width]",
                )
            seen[name] = x
            if len(seen) == len(hook_points):
                raise StopForward

        return keep

    with _all_hooked([(point, visit(point.name)) for point in hook_points]):
        try:
            forward(model, tokens_SC, attention_SC)
        except StopForward:
            return seen
    missing = [point.name for point in hook_points if point.name not in seen]
    raise InputError(
        "the model's forward pass never reaches these modules", where="activations.hook_points", found=", ".join(missing)
    )


@contextmanager
def _all_hooked(visits: list[tuple[HookPoint, Callable[[Tensor], None]]]) -> Iterator[None]:
    if not visits:
        yield
        return
    (point, visit), *rest = visits
    with point.hooked(visit), _all_hooked(rest):
        yield
