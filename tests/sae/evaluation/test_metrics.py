"""The figures of merit, on closed forms and against float64 NumPy.

Shapes: N rows, D dimensions, F latents.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.codes import as_codes
from sae.evaluation.metrics import PCA, Reconstruction, Sparsity, loss_recovered


def rows(count: int, width: int = 6, mean: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + mean


def measured(x_ND: torch.Tensor, reconstruction_ND: torch.Tensor, batch: int = 10**6, center: float = 0.0) -> Reconstruction:
    result = Reconstruction(torch.full((x_ND.shape[1],), center))
    for x_BD, reconstruction_BD in zip(x_ND.split(batch), reconstruction_ND.split(batch), strict=True):
        result.update(x_BD, reconstruction_BD)
    return result


# Reconstruction


def test_perfect_reconstruction_leaves_no_variance_unexplained() -> None:
    x_ND = rows(50, mean=2.0)
    assert measured(x_ND, x_ND).fvu() == 0
    assert measured(x_ND, x_ND).cosine() == pytest.approx(1)


def test_the_mean_alone_leaves_all_of_it_unexplained() -> None:
    x_ND = rows(50, mean=2.0)
    assert measured(x_ND, x_ND.mean(0).expand_as(x_ND)).fvu() == pytest.approx(1, rel=1e-6)


@given(st.integers(2, 40), st.integers(1, 8), st.floats(-100, 100), st.integers(1, 50), st.integers(0, 1000))
def test_fvu_and_cosine_equal_their_definitions_whatever_the_batches(n: int, d: int, mean: float, batch: int, seed: int) -> None:
    x_ND = rows(n, d, mean, seed)
    reconstruction_ND = x_ND + 0.3 * rows(n, d, seed=seed + 1)
    result = measured(x_ND, reconstruction_ND, batch, center=mean)
    x, y = x_ND.double().numpy(), reconstruction_ND.double().numpy()
    fvu = ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    cosine = ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean()
    assert result.fvu() == pytest.approx(fvu, rel=1e-9)
    assert result.cosine() == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize("center", [0.0, 5.0, -1000.0])
def test_center_changes_nothing_but_rounding(center: float) -> None:
    x_ND = rows(200, mean=5.0)
    assert measured(x_ND, x_ND * 0.9, center=center).fvu() == pytest.approx(measured(x_ND, x_ND * 0.9).fvu(), rel=1e-7)


def test_mean_of_the_activations_is_no_variance() -> None:
    # Rows of mean 5 and standard deviation 1: the error of the zero reconstruction is E‖x‖² = D(25 + 1), their variance D.
    # Figures that leave the mean in, or average the ratio over batches or rows, say otherwise (SAELens 6.18 does).
    x_ND = rows(20_000, mean=5.0)
    assert measured(x_ND, torch.zeros_like(x_ND)).fvu() == pytest.approx(26, rel=0.02)
    assert measured(x_ND, torch.full_like(x_ND, 5.0)).fvu() == pytest.approx(1, rel=0.001)
    noisy_ND = x_ND + 0.5 * rows(20_000, seed=1)
    assert measured(x_ND, noisy_ND, batch=1).fvu() == pytest.approx(0.25, rel=0.02)


def test_small_variance_on_a_large_mean_survives() -> None:
    x_ND = (rows(1000, seed=2).double() * 1e-3 + 1e4).float()
    x = x_ND.double().numpy()
    expected = ((x - 1e4) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert measured(x_ND, torch.full_like(x_ND, 1e4), center=1e4).fvu() == pytest.approx(expected, rel=1e-6)


def test_cosine_counts_zero_rows_as_zero() -> None:
    x_ND = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    y_ND = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert measured(x_ND, y_ND).cosine() == pytest.approx(1 / 4)


def test_rows_without_variance_have_no_fvu() -> None:
    assert math.isnan(measured(torch.ones(3, 2), torch.zeros(3, 2)).fvu())


# Sparsity


def counted(*batches: torch.Tensor) -> Sparsity:
    result = Sparsity(batches[0].shape[1])
    for values_BF in batches:
        result.update(as_codes(values_BF))
    return result


CODES_NF = torch.tensor([[1.0, 0, 0, 0], [2.0, -3.0, 0, 0], [0, 0, 0, 0], [4.0, 1.0, 1.0, 0]])


def test_l0_frequencies_and_dead_latents_of_a_small_example() -> None:
    sparsity = counted(CODES_NF)
    assert sparsity.l0() == (1 + 2 + 0 + 3) / 4
    assert sparsity.frequency_F().tolist() == [0.75, 0.5, 0.25, 0.0]
    assert sparsity.fired_F.tolist() == [3, 2, 1, 0]
    assert sparsity.dead() == 1
    assert sparsity.rows == 4


@given(st.integers(1, 60), st.integers(1, 90), st.integers(1, 70), st.floats(0, 1), st.integers(0, 1000))
def test_figures_equal_their_definitions_whatever_the_batches(n: int, f: int, batch: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values_NF = torch.rand(n, f, generator=generator) * (torch.rand(n, f, generator=generator) < share)
    sparsity, z = counted(*values_NF.split(batch)), values_NF.numpy() != 0
    assert sparsity.l0() == pytest.approx(z.sum(1).mean())
    assert sparsity.dead() == (z.sum(0) == 0).sum()
    assert sparsity.frequency_F().numpy() == pytest.approx(z.mean(0))

    l0 = sparsity.l0_histogram()
    assert l0["counts"] == np.histogram(z.sum(1), np.array(l0["edges"]) - 0.5)[0].tolist()
    assert sum(l0["counts"]) == n
    assert len(l0["counts"]) <= 41

    frequency = sparsity.frequency_histogram()
    edges = frequency["log10_edges"]
    assert isinstance(edges, list)
    assert isinstance(frequency["counts"], list)
    assert sum(frequency["counts"]) == f - sparsity.dead()
    assert frequency["never"] == sparsity.dead()
    assert np.diff(edges) == pytest.approx(0.25)
    assert edges[0] <= -math.log10(n) + 1e-9
    assert edges[-1] == 0


def test_frequency_histogram_puts_each_latent_into_its_bin() -> None:
    values_NF = torch.zeros(1000, 4)
    values_NF[:, 0] = 1  # log10 of 1 is 0
    values_NF[:20, 1] = 1  # of 0.02: -1.70
    values_NF[:2, 2] = 1  # of 0.002: -2.70
    histogram = counted(values_NF).frequency_histogram()
    edges, counts = histogram["log10_edges"], histogram["counts"]
    assert isinstance(edges, list)
    assert isinstance(counts, list)
    filled = [(edges[i], edges[i + 1]) for i, count in enumerate(counts) if count]
    assert filled == [(-2.75, -2.5), (-1.75, -1.5), (-0.25, 0.0)]
    assert histogram["never"] == 1


# PCA


@given(st.integers(8, 60), st.integers(1, 7), st.integers(0, 1000), st.data())
def test_pca_equals_the_singular_value_decomposition(n: int, d: int, seed: int, data: st.DataObject) -> None:
    components = data.draw(st.integers(0, d))
    x_ND = rows(n, d, mean=3.0, seed=seed) * torch.arange(1, d + 1)
    x = x_ND.double().numpy()
    _, _, vectors = np.linalg.svd(x - x.mean(0), full_matrices=False)
    basis = vectors[:components]
    new = rows(5, d, seed=seed + 1).double().numpy()
    expected = x.mean(0) + (new - x.mean(0)) @ basis.T @ basis
    np.testing.assert_allclose(PCA(x_ND).reconstruct(torch.from_numpy(new), components).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_pca_of_no_components_is_the_mean_and_of_all_is_exact() -> None:
    x_ND = rows(40, mean=1.0)
    assert measured(x_ND, PCA(x_ND).reconstruct(x_ND, 0)).fvu() == pytest.approx(1)
    assert measured(x_ND, PCA(x_ND).reconstruct(x_ND, 6)).fvu() == pytest.approx(0, abs=1e-12)


def test_fvu_of_pca_is_the_share_of_the_small_eigenvalues() -> None:
    x_ND = rows(500) * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    eigenvalues = np.linalg.eigvalsh(np.cov(x_ND.double().numpy().T))
    assert measured(x_ND, PCA(x_ND).reconstruct(x_ND, 2)).fvu() == pytest.approx(eigenvalues[:4].sum() / eigenvalues.sum())


# Loss recovered


def test_loss_recovered_is_one_for_no_damage_and_zero_for_that_of_the_ablation() -> None:
    assert loss_recovered(2.0, 2.0, 10.0) == 1
    assert loss_recovered(2.0, 10.0, 10.0) == 0
    assert loss_recovered(2.0, 4.0, 10.0) == pytest.approx(0.75)
    assert loss_recovered(2.0, 12.0, 10.0) == pytest.approx(-0.25)
    assert math.isnan(loss_recovered(2.0, 2.0, 2.0))
