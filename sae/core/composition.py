"""Putting modules together: `Seq`, `Parallel`, `Lambda`, `ReuseForward`, `useif`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, Self, TypeVar

from torch import nn

from sae.config import SaeError
from sae.core.cache import Cache, Module, run

T = TypeVar("T")


class Collection(Module):
    """Named children in order, given by name or by position (``item0``, ``item1``, …)."""

    def __init__(self, *items: nn.Module | nn.Parameter, **named: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._order: list[str] = []
        for name, child in {**{f"item{i}": item for i, item in enumerate(items)}, **named}.items():
            if not isinstance(child, (nn.Module, nn.Parameter)):
                raise SaeError("a part of a composition is a module or a parameter", where=name, found=type(child).__name__)
            if hasattr(self, name):  # torch would file the child away, and the attribute would still be the method
                raise SaeError("a part can't go by a name that every module has", where=name, expected="another name")
            setattr(self, name, child)
            self._order.append(name)

    def __getitem__(self, key: int | str) -> Any:
        return getattr(self, self._order[key] if isinstance(key, int) else key)

    def __len__(self) -> int:
        return len(self._order)

    def parts(self) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
        """Names and children, in order."""
        return ((name, getattr(self, name)) for name in self._order)


class Seq(Collection):
    """Each child takes the output of the one before.

    >>> layers = Seq(twice=Lambda(lambda x: 2 * x), increase=Lambda(lambda x: x + 1))
    >>> layers(3)
    7
    >>> layers["twice"](3), layers[1](3)
    (6, 4)
    """

    def __init__(self, *items: nn.Module, **named: nn.Module) -> None:
        super().__init__(*items, **named)
        for name, child in self.parts():
            if isinstance(child, nn.Parameter):
                raise SaeError("a parameter can't stand in a Seq: it takes no input", where=name, expected="a module")

    def forward(self, x: Any, *, cache: Cache) -> Any:
        for name, child in self.parts():
            x = run(child, x, cache[name])
        return x


class Parallel(Collection):
    """Every child takes the same input; `reduce` says what becomes of their outputs.

    >>> Parallel(Lambda(lambda x: 2 * x), Lambda(lambda x: x + 1)).reduce(lambda a, b: a - b)(3)
    2
    """

    def __init__(self, *items: nn.Module | nn.Parameter, **named: nn.Module | nn.Parameter) -> None:
        super().__init__(*items, **named)
        self._reduce: Callable[..., Any] | None = None

    def reduce(self, function: Callable[..., Any], *, binary: bool = False) -> Self:
        """Set what joins the outputs: ``function(*outputs)``, or with `binary` a fold from the left. Returns self."""
        self._reduce = (lambda *outputs: reduce(function, outputs)) if binary else function
        return self

    def forward(self, x: Any, *, cache: Cache) -> Any:
        if self._reduce is None:
            raise SaeError("this Parallel has no reduction", expected="Parallel(...).reduce(function)")
        return self._reduce(*(run(child, x, cache[name]) for name, child in self.parts()))


class Lambda(Module):
    """``func(module(x))``, or ``func(x)`` without a module. The module may be a parameter, which stands for its value."""

    def __init__(self, func: Callable[[Any], Any], module: nn.Module | nn.Parameter | None = None) -> None:
        super().__init__()
        self.func = func
        self.module = module

    def forward(self, x: Any, *, cache: Cache) -> Any:
        return self.func(x if self.module is None else run(self.module, x, cache["module"]))


class ReuseForward(Module):
    """Runs the module it holds once in each step for each input object, however many places ask for it.

    >>> shared = ReuseForward(Lambda(lambda x: [x]))
    >>> Parallel(shared, shared).reduce(lambda a, b: a is b)("input")
    True
    """

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Any, *, cache: Cache) -> Any:
        return cache.run_once(self.wrapped, x)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)


def useif(condition: bool, **named: T) -> dict[str, T]:
    """The named things if the condition holds, else nothing: ``Seq(**useif(cfg.pre_bias, pre_bias=…), lin=…)``.

    >>> useif(True, pre_bias="a module"), useif(False, pre_bias="a module")
    ({'pre_bias': 'a module'}, {})
    """
    return named if condition else {}
