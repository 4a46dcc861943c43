"""`Architecture`: what a researcher subclasses. It finds the declared parts and builds them, each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, get_args

from torch import Tensor

from sae.architecture.initializer import Initializer
from sae.architecture.model import SAE
from sae.architecture.properties import ArchitectureProp, Declarations, aux_model_prop, loss_prop, metric_prop
from sae.architecture.trainable import Trainable
from sae.components.frequency import EMAFreqTracker
from sae.components.losses import Loss
from sae.config import SaeError, SweepableConfig, seeded_global_rng

C = TypeVar("C", bound=SweepableConfig)


class Architecture(Generic[C]):
    """The declaration of an SAE. Subclass it as ``class MySAE(Architecture[MyConfig])``.

    A subclass may define `setup`, which runs before anything is built, and declares with descriptors one model
    (`model_prop`), auxiliary models (`aux_model_prop`), losses (`loss_prop`) and metrics (`metric_prop`).

    Args:
        cfg: the architecture's own config; the class's defaults if left out.
        d_in: width of the activations.
        d_sae: number of latents.
        d_out: width of what is reconstructed; d_in unless it differs.
        widths: dimensions of each hook point, side by side in an input; d_in is one unless given.
        target_widths: the same of what is reconstructed; as `widths` unless d_out differs.
        l0_target: mean number of active latents to aim at.
        center_D: where the decoder's bias starts.
        seed: decides the initial weights.

    >>> import torch
    >>> from sae import model_prop
    >>> from sae.components import L2Loss
    >>> class Plain(Architecture[SweepableConfig]):
    ...     @model_prop
    ...     def model(self):
    ...         return SAE(encoder_pre=self.init.encoder, nonlinearity=torch.nn.ReLU(), decoder=self.init.decoder)
    ...     L2_loss = model.add_loss(L2Loss)
    >>> plain = Plain(d_in=4, d_sae=8)
    >>> sorted(plain.canonical_tensors())
    ['decoder.bias', 'decoder.weight', 'encoder.bias', 'encoder.weight']
    >>> list(plain.trainable.losses)
    ['L2_loss']
    >>> plain.core_model.encode(torch.ones(3, 4)).shape
    (3, 8)
    """

    config_class: ClassVar[type[SweepableConfig]] = SweepableConfig
    declarations: ClassVar[Declarations]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, SweepableConfig):
                    cls.config_class = argument
        cls.declarations = Declarations(cls).check()

    def __init__(
        self,
        cfg: C | None = None,
        *,
        d_in: int,
        d_sae: int,
        d_out: int | None = None,
        widths: Sequence[int] | None = None,
        target_widths: Sequence[int] | None = None,
        l0_target: float | None = None,
        center_D: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        if cfg is not None and not isinstance(cfg, self.config_class):
            raise SaeError(
                "this architecture takes another config",
                where=type(self).__name__,
                found=type(cfg).__name__,
                expected=self.config_class.__name__,
            )
        self.cfg: C = self.config_class() if cfg is None else cfg  # type: ignore[assignment]
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_in if d_out is None else d_out
        self.widths = _widths(widths, self.d_in, "widths")
        same = self.d_out == self.d_in and target_widths is None
        self.target_widths = list(self.widths) if same else _widths(target_widths, self.d_out, "target_widths")
        self.l0_target, self.seed = l0_target, seed
        self.init = Initializer(d_in, d_sae, d_out=d_out, l0_target=l0_target, center_D=center_D)
        self._instantiated = False
        self._trainable: Trainable | None = None

    def setup(self) -> None:
        """Override to prepare `self.init` before the parts are built: wrappers, biases, tied weights."""

    def instantiate(self) -> None:
        """Run `setup` and build all that is declared, once, under the architecture's seed. Asking for a part does this."""
        if self._instantiated:
            return
        self._instantiated = True
        with seeded_global_rng(self.seed, "architecture", "init"):
            self.setup()
            self._trainable = Trainable(
                self.core_model,
                aux={name: getattr(self, name) for name in self.declarations.of(aux_model_prop)},
                losses=self._declared(loss_prop),
                metrics=self._declared(metric_prop),
            )
        for module in self._trainable.modules():
            if isinstance(module, EMAFreqTracker):
                module.allocate(self.d_sae)

    def _declared(self, kind: type[ArchitectureProp[Loss | None]]) -> dict[str, Loss]:
        """The losses or metrics by name, without those that this config has no use for: they are None."""
        parts = {name: getattr(self, name) for name in self.declarations.of(kind)}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def core_model(self) -> SAE:
        """The model, whatever the subclass named it."""
        model: SAE = getattr(self, self.declarations.model())
        return model

    @property
    def trainable(self) -> Trainable:
        """Models and losses as one module; built once."""
        self.instantiate()
        if self._trainable is None:
            raise SaeError("this architecture is still being built, or could not be", where=type(self).__name__)
        return self._trainable

    def canonical_tensors(self) -> dict[str, Tensor]:
        """The saved model's tensors by name, each once.

        The encoder's and decoder's own are ``encoder.weight`` [F, D], ``encoder.bias`` [F], ``decoder.weight`` [F, D] and
        ``decoder.bias`` [D] in every architecture; others go by their place in the model.
        """
        model = self.trainable.model
        known: dict[Tensor, str] = {}
        for name, factory in (("encoder", self.init._encoder), ("decoder", self.init._decoder)):
            known |= {parameter: f"{name}.{part}" for part, parameter in factory.raw.named_parameters()}
        named: dict[str, Tensor] = {}
        for path, parameter in model.named_parameters():
            named[known.get(parameter, path.replace("wrapped.", ""))] = parameter
        persistent = model.state_dict()
        named |= {path.replace("wrapped.", ""): buffer for path, buffer in model.named_buffers() if path in persistent}
        return named


def _widths(widths: Sequence[int] | None, total: int, name: str) -> list[int]:
    if widths is not None and sum(widths) != total:
        raise SaeError("these widths do not add up", where=name, found=list(widths), expected=f"{total} in all")
    return [total] if widths is None else list(widths)
