"""`Cache`, the record of one step: what was written where, what already ran, and who wants to look or to interfere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from sae.config import SaeError

T = TypeVar("T")
WriteHook = Callable[["Cache", Any], Any]


class Cache:
    """A tree of named values, made anew for every step.

    Each module of a composition gets a scope of its own (``cache["encoder"]["preacts"]``); all scopes share one root. A
    name is written once in its scope. Whatever `write` returns is the value that flows on, so a hook that replaces it
    patches the computation: this one mechanism serves metrics, penalties, and ablation.

    Args:
        step: number of the training step, None outside training.
        steps: length of the run, None outside training.

    >>> cache = Cache()
    >>> cache.on_write("preacts", lambda scope, value: 2 * value)
    >>> cache["encoder"].write("preacts", 3.0)
    6.0
    >>> cache["encoder"].read("preacts"), cache.values()
    (6.0, {'encoder/preacts': 6.0})
    """

    def __init__(self, step: int | None = None, steps: int | None = None) -> None:
        self.step, self.steps = step, steps
        self.path: tuple[str, ...] = ()
        self._record = _Record()

    def __getitem__(self, name: str) -> Cache:
        """The scope called `name` below this one."""
        return self._at((*self.path, name))

    @property
    def progress(self) -> float | None:
        """How much of the run is behind this step, from 0 to 1; None outside training."""
        return self.step / self.steps if self.step is not None and self.steps else None

    def _at(self, path: tuple[str, ...]) -> Cache:
        scope = object.__new__(Cache)
        scope.step, scope.steps, scope.path, scope._record = self.step, self.steps, path, self._record
        return scope

    def write(self, name: str, value: T) -> T:
        """Record a value under `name` in this scope and return what is to flow on in its place.

        Raises:
            SaeError: the name was written before in this scope.
        """
        path = (*self.path, name)
        for pattern, hook in self._record.hooks:
            if pattern in (name, "/".join(path)):
                value = hook(self, value)
        if path in self._record.values:
            raise SaeError("this value was already written in this step", where="/".join(path))
        self._record.values[path] = value
        return value

    def read(self, name: str) -> Any:
        """The value written as `name` in this scope.

        Raises:
            SaeError: nothing was.
        """
        path = (*self.path, name)
        if path not in self._record.values:
            raise SaeError("no such value was written in this step", where="/".join(path), found=sorted(self.values()))
        return self._record.values[path]

    def __contains__(self, name: str) -> bool:
        return (*self.path, name) in self._record.values

    def values(self) -> dict[str, Any]:
        """Everything written in this scope and below, by path relative to it."""
        depth = len(self.path)
        return {"/".join(path[depth:]): value for path, value in self._record.values.items() if path[:depth] == self.path}

    def on_write(self, name: str, hook: WriteHook) -> None:
        """Call ``hook(scope, value)`` at every write of `name`, or of a full path with slashes; it returns the value to use."""
        self._record.hooks.append((name, hook))

    def run_once(self, module: nn.Module, x: Any, name: str | None = None) -> Any:
        """The output of ``module(x)``, computed at most once in this step for each input *object*.

        The record holds the input itself, so that a freed object's identity can't be mistaken for another's.
        """
        for seen, output, _ in self._record.ran.get(module, ()):
            if seen is x:
                return output
        scope = self[name] if name else self
        output = run(module, x, scope)
        self._record.ran.setdefault(module, []).append((x, output, scope.path))
        return output

    def scope_of(self, module: nn.Module) -> Cache:
        """The scope that `module` last ran in by `run_once`."""
        runs = self._record.ran.get(module)
        if not runs:
            raise SaeError("this module has not run in this step", found=type(module).__name__)
        return self._at(runs[-1][2])


class _Record:
    """What all scopes of a step share. It refers to no scope: a cycle would keep a step's graph alive until a collection."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], Any] = {}
        self.hooks: list[tuple[str, WriteHook]] = []
        self.ran: dict[nn.Module, list[tuple[Any, Any, tuple[str, ...]]]] = {}


class Module(nn.Module):
    """A module that takes part in the record: ``forward(x, *, cache)``. Called without a cache it makes its own."""

    def __call__(self, x: Any, *, cache: Cache | None = None) -> Any:
        return super().__call__(x, cache=Cache() if cache is None else cache)


def run(child: nn.Module | nn.Parameter, x: Any, cache: Cache) -> Any:
    """Run a child in its scope: ours get the cache, torch's own are called plainly, a parameter stands for its value."""
    if isinstance(child, nn.Parameter):
        return child
    return child(x, cache=cache) if isinstance(child, Module) else child(x)
