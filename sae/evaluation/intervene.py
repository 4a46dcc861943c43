"""Trained SAEs inside a running language model: splice them in, read their codes, edit latents, steer.

Shapes: S sequences of C tokens, B = S·C rows, D dimensions of an activation, F latents, L latents edited together.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from sae.activations.model import HookPoint
from sae.architecture import TrainedSAE
from sae.codes import Codes, DenseCodes
from sae.config import InputError

Latents = int | Iterable[int] | Tensor


class Splice:
    """One SAE in one model, as `splice` gives it: its codes, and what is done to them.

    Edits are done in the order in which they were asked for, in every later forward pass, until `clear`. They return
    the splice, so that they can be chained: ``spliced.scale(7, 2.0).ablate([3, 5])``.

    Attributes:
        sae: the SAE.
        positions: which tokens are touched, [S, C], or None for all; may be set anew between forward passes.
        codes: what the encoder made of the last forward pass, before any edit: [B, F] with sequences one after the other.
        edited: the same after the edits, as the decoder took them.
    """

    def __init__(self, sae: TrainedSAE, positions: Tensor | None, *, error_term: bool, gradients: bool) -> None:
        if positions is not None and positions.dtype != torch.bool:
            raise InputError("a mask says yes or no for each token", where="positions", found=positions.dtype, expected="bool")
        if len(sae.hook_points) != 1 or len(sae.target_hook_points) != 1:
            raise InputError(
                "only an SAE of one hook point can be spliced in: a pass reaches several one after the other",
                where="hook_points",
                found=", ".join(dict.fromkeys([*sae.hook_points, *sae.target_hook_points])) or "none",
            )
        (self._source,), (self._target,) = sae.hook_points, sae.target_hook_points
        self.sae, self.positions, self.error_term, self.gradients = sae, positions, error_term, gradients
        self._edits: list[Callable[[Codes], Codes]] = []
        self._x_BD: Tensor | None = None
        self._codes: Codes | None = None
        self._edited: Codes | None = None

    @property
    def codes(self) -> Codes:
        return self._seen(self._codes)

    @property
    def edited(self) -> Codes:
        return self._seen(self._edited)

    def ablate(self, latents: Latents) -> Self:
        """Latents become 0."""
        return self.scale(latents, 0.0)

    def scale(self, latents: Latents, factor: float) -> Self:
        """Latents are multiplied by a factor."""
        factors_F = torch.ones(self.sae.d_sae)
        factors_F[_checked_latents(latents, self.sae.d_sae)] = _finite(factor, "factor")
        self._edits.append(lambda codes: codes.scale_latents(factors_F))
        return self

    def set(self, latents: Latents, value: float) -> Self:
        """Latents have this value on every token, whatever they had."""
        return self._change(latents, value, lambda z_B, value: torch.full_like(z_B, value))

    def add(self, latents: Latents, value: float) -> Self:
        """A value is added to latents on every token: steering, by `value` times the decoder's row."""
        return self._change(latents, value, operator.add)

    def clear(self) -> Self:
        """Forget all edits."""
        self._edits.clear()
        return self

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[Self]:
        """While the block runs, the model's activations pass through here."""
        source, target = (HookPoint(model, name, "hook_points") for name in (self._source, self._target))
        with source.hooked(self._read), target.hooked(self._write):  # in this order where both are one place
            yield self

    def _read(self, x: Tensor) -> None:
        """Encode what passes at the hook point, and edit the codes."""
        _check_width(x, self._source, self.sae.d_in)
        like = self.sae.decoder_rows_FD
        with _own_precision(like):
            self._x_BD = x.reshape(-1, self.sae.d_in).to(like)
            codes = self.sae.encode(self._x_BD)
            if self.gradients:
                codes = _tracked(codes)
            self._codes = codes
            for edit in self._edits:
                codes = edit(codes)
            self._edited = codes

    def _write(self, y: Tensor) -> Tensor | None:
        """What takes the place of `y` at the target's hook point; None leaves it as it is."""
        _check_width(y, self._target, self.sae.d_out)
        x_BD, self._x_BD = self._x_BD, None
        if x_BD is None or len(x_BD) != y.shape[:-1].numel():
            raise InputError(
                "no input of the SAE came before these activations",
                where=self._target,
                expected=f"a hook point behind {self._source}",
            )
        if self.error_term and not self._edits and not self.gradients:
            return None
        with _own_precision(x_BD):
            new_BD = self.sae.decode(self.edited, x_BD)
            if not self.error_term:
                replacement = new_BD.reshape(y.shape)
            else:
                # y + (x̂' - x̂) is x̂' + error, and exactly y where the edits change nothing.
                old_BD = new_BD if self.edited is self.codes else self.sae.decode(self.codes, x_BD)
                kept = y
                if self.gradients:  # the error is a constant
                    kept, old_BD = y.detach(), old_BD.detach()
                replacement = kept + (new_BD - old_BD).reshape(y.shape).to(y.device)
        replacement = replacement.to(y)
        return replacement if self.positions is None else torch.where(self._mask(y)[..., None], replacement, y)

    def _change(self, latents: Latents, value: float, change: Callable[[Tensor, float], Tensor]) -> Self:
        """An edit of one latent after the other, from what it is on each token."""
        value, checked = _finite(value, "value"), _checked_latents(latents, self.sae.d_sae)

        def edit(codes: Codes) -> Codes:
            for latent in checked:
                codes = codes.set_latent(latent, change(codes.narrow(latent, latent + 1).dense()[:, 0], value))
            return codes

        self._edits.append(edit)
        return self

    def _mask(self, y: Tensor) -> Tensor:
        """The mask in the shape of these tokens. A pass over one token a sequence goes on behind the mask: generation."""
        assert self.positions is not None
        shape, mask = y.shape[:-1], self.positions
        if mask.shape == shape or (len(shape) == 1 and mask.numel() == shape.numel()):  # some modules see one long row
            return mask.to(y.device).reshape(shape)
        if len(shape) == 2 and shape[1] == 1:
            return torch.ones(shape, dtype=torch.bool, device=y.device)
        raise InputError("the mask has another shape than the tokens", where="positions", found=[*mask.shape], expected=[*shape])

    def _seen(self, codes: Codes | None) -> Codes:
        if codes is None:
            raise InputError("no activations have passed here yet", where=self._source, expected="a forward pass")
        return codes


@overload
def splice(
    model: nn.Module,
    sae: TrainedSAE,
    *,
    positions: Tensor | None = None,
    error_term: bool = False,
    gradients: bool = False,
) -> AbstractContextManager[Splice]: ...
@overload
def splice(
    model: nn.Module,
    sae: Sequence[TrainedSAE],
    *,
    positions: Tensor | None = None,
    error_term: bool = False,
    gradients: bool = False,
) -> AbstractContextManager[list[Splice]]: ...
def splice(
    model: nn.Module,
    sae: TrainedSAE | Sequence[TrainedSAE],
    *,
    positions: Tensor | None = None,
    error_term: bool = False,
    gradients: bool = False,
) -> AbstractContextManager[Any]:
    """While the block runs, the model computes with the SAE's reconstruction in place of the activations that it reads.

    A transcoder reads at its hook point and writes at its target's. The model may be in any precision and on any device:
    activations go to the SAE's and back. When the block ends, however it does, the model is as it was.

    Args:
        model: any module that has the SAE's hook points, such as a Hugging Face model.
        sae: one SAE, or several; of two at one hook point, the second reads what the first wrote.
        positions: which tokens to touch, a bool mask [S, C]; the others keep their activations. A pass over one further
            token of each sequence, as in generation, is touched (unless C is 1: that mask holds for every such pass).
        error_term: add what the SAE fails to reconstruct, so that the model's output changes only by edits.
        gradients: the codes are dense and keep their gradient, ``spliced.codes.dense().grad`` after ``backward()``;
            the error term counts as a constant (Marks et al. 2024, "Sparse Feature Circuits", section 3.1).

    Returns:
        A context manager that gives a `Splice`, or a list of them where `sae` is a list.

    Raises:
        InputError: the model has no such hook point, or activations of another width pass there; the mask does not fit;
            the SAE reads or writes several hook points.

    >>> import torch
    >>> from sae.architectures.topk import TopKSAE
    >>> model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 2))
    >>> trained = TrainedSAE(TopKSAE(d_in=4, d_sae=8, l0_target=2), hook_points=["0"], lineage={})
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> with splice(model, trained) as spliced:
    ...     y = model(x)
    >>> torch.equal(y, model[1](trained(x)))
    True
    >>> spliced.codes.shape
    (1, 8)
    >>> with splice(model, trained, error_term=True) as spliced:
    ...     y = model(x)
    ...     _ = spliced.scale(range(8), 2.0)
    ...     y_edited = model(x)
    >>> torch.equal(y, model(x)), torch.equal(y_edited, y)
    (True, False)
    """
    if isinstance(sae, TrainedSAE):
        return Splice(sae, positions, error_term=error_term, gradients=gradients).hooked(model)
    return _all_hooked([Splice(each, positions, error_term=error_term, gradients=gradients) for each in sae], model)


@contextmanager
def steer(model: nn.Module, sae: TrainedSAE, values: Mapping[int, float], *, positions: Tensor | None = None) -> Iterator[Splice]:
    """While the block runs, a value is added to each of these latents on every token.

    The activations change by Σ value · decoder row and by nothing else: what the SAE fails to reconstruct is kept. Behind
    a layer norm, values are in each token's standard deviations.

    Args:
        model: as in `splice`.
        sae: whose latents are meant.
        values: what to add, by latent.
        positions: as in `splice`.

    >>> import torch
    >>> from sae.architectures.topk import TopKSAE
    >>> model = torch.nn.Sequential(torch.nn.Identity())
    >>> trained = TrainedSAE(TopKSAE(d_in=4, d_sae=8, l0_target=2), hook_points=["0"], lineage={})
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> with steer(model, trained, {5: 10.0}):
    ...     steered = model(x)
    >>> torch.allclose(steered, x + 10.0 * trained.decoder_rows_FD[5])
    True
    """
    with splice(model, sae, positions=positions, error_term=True) as spliced:
        for latent, value in values.items():
            spliced.add(latent, value)
        yield spliced


@contextmanager
def ablate(model: nn.Module, sae: TrainedSAE, latents: Latents, *, positions: Tensor | None = None) -> Iterator[Splice]:
    """While the block runs, these latents are 0; what the SAE fails to reconstruct is kept.

    Args:
        model: as in `splice`.
        sae: whose latents are meant.
        latents: one, or several.
        positions: as in `splice`.

    >>> import torch
    >>> from sae.architectures.topk import TopKSAE
    >>> model = torch.nn.Sequential(torch.nn.Identity())
    >>> trained = TrainedSAE(TopKSAE(d_in=4, d_sae=8, l0_target=2), hook_points=["0"], lineage={})
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> with ablate(model, trained, range(8)):
    ...     only_bias_and_error = model(x)
    >>> bias = trained.decode(torch.zeros(1, 8))
    >>> torch.allclose(only_bias_and_error, bias + (x - trained(x)))
    True
    """
    with splice(model, sae, positions=positions, error_term=True) as spliced:
        yield spliced.ablate(latents)


@contextmanager
def _all_hooked(splices: list[Splice], model: nn.Module) -> Iterator[list[Splice]]:
    with ExitStack() as stack:
        yield [stack.enter_context(each.hooked(model)) for each in splices]


def _tracked(codes: Codes) -> DenseCodes:
    """The codes as a tensor whose gradient is kept."""
    if not torch.is_grad_enabled():
        raise InputError("gradients were asked for, and torch keeps none here", expected="no torch.no_grad() around the pass")
    z_BF = codes.dense()
    if z_BF.requires_grad:
        z_BF.retain_grad()
    else:
        z_BF.requires_grad_()
    return DenseCodes(z_BF)


def _own_precision(like: Tensor) -> AbstractContextManager[Any]:
    """The SAE computes in its own data type, also where the model runs under autocast."""
    return torch.autocast(like.device.type, enabled=False)


def _check_width(x: Any, hook_point: str, width: int) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[-1] != width:
        raise InputError(
            "the activations that pass here do not fit the SAE",
            where=hook_point,
            found=[*x.shape] if isinstance(x, Tensor) else type(x).__name__,
            expected=f"[sequences, tokens, {width}]",
        )


def _checked_latents(latents: Latents, d_sae: int) -> list[int]:
    if isinstance(latents, Tensor):
        latents = latents.tolist()
    try:
        checked = list(map(operator.index, latents if isinstance(latents, Iterable) else [latents]))
    except TypeError:
        raise InputError("latents go by number", where="latents", found=latents, expected="a whole number, or several") from None
    for latent in checked:
        if not 0 <= latent < d_sae:
            raise InputError("the SAE has no such latent", where="latents", found=latent, expected=f"0 to {d_sae - 1}")
    return checked


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise InputError("this is no finite number", where=where, found=value)
    return float(value)
