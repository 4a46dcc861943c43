"""Hook points by pattern: `model.layers.*.mlp.input` is that of every layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sae.activations.model import HookPoint
from sae.activations.store import fits

_ENDS = (".input", ".output")


def find_hook_points(model: nn.Module, patterns: Sequence[str], where: str = "activations.hook_points") -> list[HookPoint]:
    """The places in a model that names and patterns mean, each once; those of one pattern in the model's order.

    Args:
        model: the subject.
        patterns: as `HookPoint` takes them; in each part between dots, `*`, `?` and `[…]` are as in file names.
        where: the field that an error names.

    Raises:
        InputError: a name or a pattern fits no module.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        names |= dict.fromkeys(_expand(model, pattern) or [pattern])  # what fits nothing is refused as a name
    return [HookPoint(model, name, where) for name in names]


def _expand(model: nn.Module, pattern: str) -> list[str]:
    modules = [name for name, _ in model.named_modules() if name]
    if found := [name for name in modules if fits(pattern, name)]:
        return found
    for end in _ENDS:
        if pattern.endswith(end):
            return [name + end for name in modules if fits(pattern.removesuffix(end), name)]
    return []
