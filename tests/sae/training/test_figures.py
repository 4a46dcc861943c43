"""Figures of a batch and of a whole set, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae.architectures.vanilla import VanillaSAE
from sae.core import Cache
from sae.training.figures import batch_figures, measure
from tests.sae.every_architecture import CASES


def test_measured_over_all_rows_together_not_as_means_of_batches() -> None:
    for name in ("vanilla", "transcoder"):
        case = next(c for c in CASES if c.name == name)
        model = case.build().trainable.eval().model
        x_ND, y_NE = case.source().rows(500)
        y_NE[300:] += 5  # batches of very different means and sizes
        figures = measure(model, zip(x_ND.split([300, 150, 50]), y_NE.split([300, 150, 50]), strict=True))
        with torch.no_grad():
            made_NE, codes_NF = model(x_ND).double().numpy(), model.encode(x_ND).dense().numpy()
        wide_NE = y_NE.double().numpy()
        fvu = ((wide_NE - made_NE) ** 2).sum() / ((wide_NE - wide_NE.mean(0)) ** 2).sum()
        assert figures["fvu"] == pytest.approx(fvu, rel=1e-5)
        assert figures["l0"] == pytest.approx(np.count_nonzero(codes_NF) / 500, rel=1e-6)


def test_targets_that_never_vary_have_no_fvu() -> None:
    model = VanillaSAE(d_in=3, d_sae=4).trainable.eval().model
    x_BD = torch.ones(5, 3)
    assert np.isnan(measure(model, [(x_BD, x_BD)])["fvu"])


def test_figures_of_a_batch() -> None:
    trainable = VanillaSAE(d_in=3, d_sae=8).trainable
    x_BD, cache = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), Cache(0, 1)
    loss = trainable.loss(x_BD, x_BD, {"sparsity_loss": 0.1}, cache)
    made_BD = cache.run_once(trainable.model, x_BD)
    figures = batch_figures(trainable, x_BD, x_BD - made_BD, loss, cache)
    x, made = x_BD.double().numpy(), made_BD.detach().double().numpy()
    codes = trainable.model.encode(x_BD).dense().detach().double().numpy()
    assert figures == pytest.approx(
        {
            "loss": ((x - made) ** 2).mean() + 0.1 * codes.sum() / 20,
            "L2_loss": ((x - made) ** 2).mean(),
            "sparsity_loss": codes.sum() / 20,
            "l0": np.count_nonzero(codes) / 20,
            "l1": codes.sum() / 20,
            "fvu": ((x - made) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
        },
        rel=1e-5,
    )
