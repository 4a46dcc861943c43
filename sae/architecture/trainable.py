"""`Trainable`: an architecture's models and losses as one module, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sae.architecture.model import SAE
from sae.components.losses import Loss
from sae.config import InputError, nearest_name
from sae.core import Cache


class Trainable(nn.Module):
    """What the optimizer sees.

    Args:
        model: the model that is saved.
        aux: further models, by attribute name.
        losses: by attribute name, which is also their coefficient's.
        metrics: losses that are recorded and not trained on.
    """

    def __init__(self, model: SAE, aux: Mapping[str, nn.Module], losses: Mapping[str, Loss], metrics: Mapping[str, Loss]) -> None:
        super().__init__()
        self.model = model
        self.aux = nn.ModuleDict(aux)
        self.losses, self.metrics = dict(losses), dict(metrics)
        self._scopes: dict[nn.Module, str] = {model: "model"} | {module: name for name, module in aux.items()}

    def check_coefficients(self, names: Iterable[str], where: str) -> None:
        """Refuse names of coefficients that name no loss; `where` is the field that they stand in.

        Raises:
            InputError: naming the nearest loss.
        """
        for name in names:
            if name not in self.losses:
                raise InputError(
                    "this coefficient names no loss",
                    where=where,
                    found=name,
                    expected="one of " + ", ".join(self.losses),
                    nearest=nearest_name(name, self.losses),
                )

    def loss(self, x_BD: Tensor, y_BD: Tensor, coefficients: Mapping[str, float | Tensor], cache: Cache) -> Tensor:
        """The weighted sum of all losses; each value goes into the record under its name. One without a coefficient weighs 1.

        Every model runs at most once, however many losses there are.
        """
        for model, scope in self._scopes.items():
            cache.run_once(model, x_BD, scope)
        total = x_BD.new_zeros(())
        for name, loss in self.losses.items():
            value = loss(x_BD, y_BD, cache=cache)
            cache.write(name, value.detach())
            total = total + value * coefficients.get(name, 1.0)
        with torch.no_grad():
            for name, metric in self.metrics.items():
                cache.write(name, metric(x_BD, y_BD, cache=cache))
        return total
