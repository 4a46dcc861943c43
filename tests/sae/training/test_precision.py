"""Half precision, and what hooks and clipping see under a scaler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import L2Loss, Wrapper
from sae.config import SweepableConfig, parse_config
from sae.core import Cache
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer
from tests.sae.every_architecture import CASES, Case
from tests.sae.synthetic import SyntheticSource

BASE: dict[str, Any] = {"steps": 60, "batch_size": 64, "l0_target": 3, "lr": 1e-2, "held_out_rows": 0, "log_every": 1}
BASE["l0_targeting"] = {"controller": "basic"}  # in so few steps `paced` would move a lot, and on little


class Watch(Wrapper):
    """Keeps what its decoder's gradient was when hooks saw it."""

    def post_backward(self, cache: Cache | None) -> None:
        gradient = self.wrapped.weight.grad
        self.seen: list[Tensor] = [*getattr(self, "seen", []), gradient.detach().clone()]


class Watched(Architecture[SweepableConfig]):
    def setup(self) -> None:
        self.init._decoder.add_wrapper(Watch)

    @model_prop
    def model(self) -> SAE:
        return SAE(encoder_pre=self.init.encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


def run(architecture: Architecture[Any], source: Any = None, **config: Any) -> Trainer:
    trainer = Trainer(architecture, source or SyntheticSource(), parse_config(TrainConfig, BASE | config))
    trainer.train()
    return trainer


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_architecture_learns_in_half_precision(case: Case, precision: str) -> None:
    losses = {}
    for name in ("float32", precision):
        trainer = run(case.build(), case.source(), precision=name, steps=30)
        losses[name] = [figures["fvu"] for _, figures in trainer.state.history]
        assert all(p.dtype == torch.float32 for p in trainer.trainable.parameters())
    full, half = (sum(values[-5:]) / 5 for values in losses.values())
    assert half < 0.95 * losses[precision][0]
    assert half == pytest.approx(full, rel=0.25, abs=0.03)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_hooks_see_gradients_as_they_are(precision: str) -> None:
    seen = []
    for name in ("float32", precision):
        architecture = Watched(d_in=16, d_sae=32)
        trainer = run(architecture, precision=name, steps=1)
        seen.append(architecture.init.decoder.seen[0])
        assert trainer.state.scaler.is_enabled() == (name == "float16")
    torch.testing.assert_close(seen[1], seen[0], rtol=0.05, atol=0.02 * float(seen[0].abs().max()))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_clipping_is_of_unscaled_gradients(precision: str) -> None:
    norms = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            norms.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm().item())
            super().step(closure)

    trainer = Trainer(
        Watched(d_in=16, d_sae=32),
        SyntheticSource(),
        parse_config(TrainConfig, BASE | {"precision": precision, "steps": 3, "clip_grad_norm": 0.01}),
    )
    trainer.state.optimizer = Spy([{"params": list(trainer.trainable.parameters()), "lr_multiplier": 1.0}], lr=1e-3)
    trainer.train()
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_gradients_below_the_bound_are_left_alone() -> None:
    one, other = (run(Watched(d_in=16, d_sae=32), steps=5, clip_grad_norm=bound) for bound in (None, 1e6))
    assert all(torch.equal(a, b) for a, b in zip(one.trainable.parameters(), other.trainable.parameters(), strict=True))


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_falls() -> None:
    trainer = Trainer(
        Watched(d_in=16, d_sae=32), SyntheticSource(), parse_config(TrainConfig, BASE | {"precision": "float16", "steps": 1})
    )
    before = [p.detach().clone() for p in trainer.trainable.parameters()]
    trainer.state.scaler.load_state_dict(trainer.state.scaler.state_dict() | {"scale": 2.0**40})
    trainer.train()
    assert trainer.state.scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.trainable.parameters(), strict=True))
