"""The descriptors that an architecture is declared with: `model_prop`, `aux_model_prop`, `loss_prop`, `metric_prop`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, cast

from torch import nn

from sae.components.losses import Loss
from sae.config import SaeError

T = TypeVar("T")


class ArchitectureProp(Generic[T]):
    """A method of an architecture that builds one of its parts; the part is built once for each instance."""

    def __init__(self, build: Callable[[Any], T]) -> None:
        self.build = build
        self.name: str | None = None
        self.__doc__ = build.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        assert self.name is not None, "the descriptor was put on the class without a name"
        instance.instantiate()
        if self.name not in instance.__dict__:  # instantiate() is at work, and asked for this part
            instance.__dict__[self.name] = self.build(instance)
        return instance.__dict__[self.name]


class loss_prop(ArchitectureProp[Loss | None]):  # noqa: N801 - reads as the decorator that it is
    """Builds a loss. Its coefficient goes by the attribute's name. It may return None: this config has no such loss."""


class metric_prop(ArchitectureProp[Loss | None]):  # noqa: N801
    """Builds a loss that is recorded and not trained on."""


class _AnyModelProp(ArchitectureProp[nn.Module]):
    def __init__(self, build: Callable[[Any], nn.Module]) -> None:
        super().__init__(build)
        self.added: list[ArchitectureProp[Loss]] = []

    def add_loss(self, loss: Callable[[nn.Module], Loss]) -> loss_prop:
        """In a class body, ``L2_loss = model.add_loss(L2Loss)``: a loss on this model, by the name it is assigned to."""
        return self._add(loss_prop, loss)

    def add_metric(self, metric: Callable[[nn.Module], Loss]) -> metric_prop:
        """As `add_loss`, for what is only to be recorded."""
        return self._add(metric_prop, metric)

    def _add(self, kind: Callable[[Callable[[Any], Loss]], T], judge: Callable[[nn.Module], Loss]) -> T:
        # By name, so that a subclass's model of this name is judged in place of this one.
        prop = kind(lambda architecture: judge(getattr(architecture, cast("str", self.name))))
        self.added.append(cast("ArchitectureProp[Loss]", prop))
        return prop


class model_prop(_AnyModelProp):  # noqa: N801
    """Builds *the* model, the one that is saved; an architecture has exactly one."""


class aux_model_prop(_AnyModelProp):  # noqa: N801
    """Builds a further model that only training needs."""


class Declarations:
    """What a class of architectures declares, its bases included; a name that a subclass repeats replaces the base's."""

    def __init__(self, owner: type) -> None:
        self.owner = owner
        self.props: dict[str, ArchitectureProp[Any]] = {}
        for base in reversed(owner.__mro__):
            for name, value in vars(base).items():
                if isinstance(value, ArchitectureProp):
                    self.props[name] = value
                else:
                    self.props.pop(name, None)

    def of(self, kind: type[ArchitectureProp[Any]]) -> list[str]:
        """Names of the declared properties of one kind, in the order of declaration."""
        return [name for name, prop in self.props.items() if type(prop) is kind]

    def model(self) -> str:
        """Name of the one model.

        Raises:
            SaeError: there is none, or more than one.
        """
        names = self.of(model_prop)
        if len(names) != 1:
            raise SaeError(
                "an architecture declares exactly one @model_prop", where=self.owner.__name__, found=", ".join(names) or "none"
            )
        return names[0]

    def check(self) -> Self:
        """Refuse what can be seen to be wrong in the class alone: two models, or an added loss that has no name."""
        if len(self.of(model_prop)) > 1:
            self.model()
        for name, prop in self.props.items():
            if isinstance(prop, _AnyModelProp) and any(added.name is None for added in prop.added):
                raise SaeError(
                    "a loss was added but not assigned, so it would be lost",
                    where=f"{self.owner.__name__}.{name}",
                    expected=f"L2_loss = {name}.add_loss(L2Loss)",
                )
        return self
