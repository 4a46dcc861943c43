"""The shuffle of the store: a bijection that mixes well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.activations.permutation import Permutation


@given(st.integers(1, 3000), st.integers(0, 2**31))
def test_every_row_gets_a_place_of_its_own(rows: int, seed: int) -> None:
    places = Permutation(rows, seed, "x")(np.arange(rows))
    assert np.array_equal(np.sort(places), np.arange(rows))


@pytest.mark.parametrize("rows", [2**k + d for k in (1, 2, 3, 8, 12, 16) for d in (-1, 0, 1)])
def test_bijection_around_powers_of_two(rows: int) -> None:
    assert np.array_equal(np.sort(Permutation(rows, 0)(np.arange(rows))), np.arange(rows))


@given(st.integers(1, 2**40), st.integers(0, 100))
def test_place_of_a_row_does_not_depend_on_the_rows_asked_for_with_it(rows: int, seed: int) -> None:
    asked = np.unique(np.linspace(0, rows - 1, 17, dtype=np.int64))
    permutation = Permutation(rows, seed, "x")
    together = permutation(asked)
    alone = [int(permutation(np.array([row]))[0]) for row in asked]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < rows)).all()


def test_asking_leaves_the_question_as_it_was() -> None:
    asked = np.arange(100)
    Permutation(100, 0)(asked)
    assert np.array_equal(asked, np.arange(100))


def test_seed_and_names_decide() -> None:
    rows = np.arange(1000)
    one, same, other_seed, other_name = (
        Permutation(1000, seed, name)(rows) for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    )
    assert np.array_equal(one, same)
    # Two independent permutations agree in one place on average.
    assert (one == other_seed).sum() < 8
    assert (one == other_name).sum() < 8


@pytest.mark.parametrize("rows", [1000, 4096, 50_000])
def test_mixes_like_a_random_permutation(rows: int) -> None:
    places = Permutation(rows, 3, "mix")(np.arange(rows))
    # Rank correlation of row and place; its standard deviation is 1/√n.
    assert abs(np.corrcoef(np.arange(rows), places)[0, 1]) < 4 / rows**0.5
    # Neighbours part: the correlation of each place with the next.
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 4 / rows**0.5
    # Each tenth of the rows spreads evenly over the tenths of the places: chi-square with (10-1)² = 81 degrees of freedom,
    # whose mean is 81 and standard deviation √162 = 12.7.
    table = np.zeros((10, 10))
    np.add.at(table, (np.arange(rows) * 10 // rows, places * 10 // rows), 1)
    chi_square = ((table - rows / 100) ** 2 / (rows / 100)).sum()
    assert 81 - 4 * 12.7 < chi_square < 81 + 4 * 12.7
    # A random permutation has about one fixed point.
    assert (places == np.arange(rows)).sum() < 8
