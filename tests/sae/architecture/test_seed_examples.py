"""The two examples that this library grew from, as they stand in their README; only the imports are ours."""

# mypy: ignore-errors

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import nn

import sae.core as cl
import sae.core as co
from sae.architecture import SAE, Architecture, aux_model_prop, load, loss_prop, model_prop, save
from sae.components import EMAFreqTracker, L2Loss, SparsityPenaltyLoss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import ReuseForward, Seq, useif
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer
from tests.sae.synthetic import SyntheticSource

# fmt: off


class VanillaConfig(SweepableConfig):
    # SweepableConfig is a subclass of pydantic BaseModel
    pre_bias: bool = False
    # this is implicitly bool | Swept | SweepExpression due to being a SweepableConfig


class VanillaSAE(Architecture[VanillaConfig]):
    # setup is called before models are constructed
    def setup(self):
        # these will add wrappers to the decoder that ensure:
        # 1. the features are normalized after each optimizer step to have unit norm
        # 2. the gradients of the features are orthogonalized after each backward pass before the optimizer step
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    # model_prop tells the Architecture class that this method
    # is the method that constructs the model.
    # model_prop is a subclass of cached_property, so self.model will always
    # refer to the same instance of the model
    @model_prop
    def model(self):
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
        )

    # loss_prop designates a Loss that will be used in training
    @loss_prop
    def L2_loss(self):
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self):
        return SparsityPenaltyLoss(self.model)


class GatedConfig(SweepableConfig):
    pre_bias: bool = False
    detach: bool = True


class Gated(Architecture[GatedConfig]):
    def setup(self):
        self.init._encoder.bias = False
        self.init._encoder.add_wrapper(ReuseForward)
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @cached_property
    def enc_mag(self):
        return Seq(
            **useif(
                self.cfg.pre_bias,
                pre_bias=ReuseForward(self.init._decoder.sub_bias()),
            ),
            r_mag=cl.ops.MulParallel(
                identity=ReuseForward(self.init.encoder),
                exp_r=co.Lambda(
                    func=lambda x: torch.exp(x),
                    module=self.init.dict_bias(),
                ),
            ),
            bias=self.init.new_encoder_bias(),
            nonlinearity=nn.ReLU(),
        )

    @cached_property
    def enc_gate(self):
        return Seq(
            **useif(
                self.cfg.pre_bias,
                pre_bias=(
                    cl.Parallel(
                        left=cl.ops.Identity(), right=self.init.decoder.bias
                    ).reduce((lambda l, r: l - r.detach()))  # noqa: E741
                    if self.cfg.detach
                    else ReuseForward(self.init._decoder.sub_bias())
                ),
            ),
            weight=ReuseForward(self.init.encoder),
            bias=self.init.new_encoder_bias(),
            nonlinearity=nn.ReLU(),
        )

    @model_prop
    def gated_model(self):
        return SAE(
            encoder=cl.Parallel(
                magnitude=self.enc_mag,
                gate=co.ops.Thresh(self.enc_gate),
            ).reduce(
                lambda x, y: x * y,
            ),
            decoder=self.init.decoder,
            penalty=None,
        )

    L2_loss = gated_model.add_loss(L2Loss)

    @aux_model_prop
    def model_aux(self):
        return SAE(
            encoder=self.enc_gate,
            freqs=EMAFreqTracker(),
            decoder=(
                self.init._decoder.detached if self.cfg.detach else self.init.decoder
            ),
        )

    L2_aux_loss = model_aux.add_loss(L2Loss)
    sparsity_loss = model_aux.add_loss(SparsityPenaltyLoss)


# fmt: on

VARIANTS = [
    (VanillaSAE, VanillaConfig(pre_bias=False)),
    (VanillaSAE, VanillaConfig(pre_bias=True)),
    (Gated, GatedConfig(pre_bias=False)),
    (Gated, GatedConfig(pre_bias=True, detach=True)),
    (Gated, GatedConfig(pre_bias=True, detach=False)),
]


@pytest.mark.parametrize(("cls", "cfg"), VARIANTS)
def test_example_learns_and_keeps_its_dictionary_at_unit_norm(cls, cfg) -> None:
    architecture = cls(cfg, d_in=16, d_sae=32)
    config = TrainConfig(steps=60, batch_size=128, lr=3e-3, l0_target=None, coefficients={"sparsity_loss": 1e-3}, log_every=5)
    trainer = Trainer(architecture, SyntheticSource(), config, device=torch.device("cpu"))
    trainer.train()
    history = [figures["L2_loss"] for _, figures in trainer.state.history]
    assert history[-1] < 0.5 * history[0]
    norms_F = torch.linalg.vector_norm(architecture.init.decoder.weight.detach(), dim=1)
    torch.testing.assert_close(norms_F, torch.ones(32))


@pytest.mark.parametrize(("cls", "cfg"), VARIANTS)
def test_example_is_saved_and_comes_back(cls, cfg, tmp_path: Path) -> None:
    architecture = cls(cfg, d_in=16, d_sae=32, seed=3)
    model = architecture.core_model.eval()
    save(architecture, tmp_path, hook_points=["synthetic"], lineage={})
    loaded = load(tmp_path)
    x_BD = SyntheticSource().sample(64, "test")
    with torch.no_grad():
        assert torch.equal(loaded.encode(x_BD).dense(), model.encode(x_BD).dense())
        assert torch.equal(loaded(x_BD), model(x_BD))
    assert type(loaded.architecture) is cls
    assert loaded.architecture.cfg == cfg


def test_gated_losses_go_by_the_names_that_they_are_assigned_to() -> None:
    trainable = Gated(d_in=4, d_sae=8).trainable
    assert list(trainable.losses) == ["L2_loss", "L2_aux_loss", "sparsity_loss"]
    assert list(trainable.aux) == ["model_aux"]


@pytest.mark.parametrize("pre_bias", [False, True])
def test_shared_encoder_of_the_gated_sae_runs_once_a_step(pre_bias: bool) -> None:
    architecture = Gated(GatedConfig(pre_bias=pre_bias, detach=False), d_in=4, d_sae=8)
    trainable, runs = architecture.trainable, []
    architecture.init._encoder.raw.register_forward_hook(lambda *_: runs.append(1))
    x_BD = torch.randn(5, 4)
    trainable.loss(x_BD, x_BD, {}, co.Cache())
    assert len(runs) == 1
