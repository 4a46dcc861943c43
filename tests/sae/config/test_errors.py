"""Errors name the field or file, what was found, what was expected, and the nearest right thing."""

from __future__ import annotations

import pytest

from sae.config import Failure, InputError, SaeError, nearest_name


def test_message_alone_stands_as_it_is() -> None:
    assert str(SaeError("the disk is full")) == "the disk is full"


def test_message_names_place_found_expected_and_nearest() -> None:
    error = InputError("unknown loss", where="train.coefficients", found="sparsty", expected="a loss", nearest="sparsity_loss")
    assert str(error) == "train.coefficients: unknown loss (found sparsty, expected a loss); did you mean 'sparsity_loss'?"
    assert (error.where, error.found, error.nearest) == ("train.coefficients", "sparsty", "sparsity_loss")


def test_found_zero_and_false_are_shown() -> None:
    assert "found 0" in str(SaeError("too small", found=0))
    assert "found False" in str(SaeError("must hold", found=False))


def test_long_values_are_cut() -> None:
    text = str(SaeError("wrong", found=list(range(10_000))))
    assert len(text) < 350
    assert text.endswith("…)")


@pytest.mark.parametrize(("kind", "status"), [(InputError, 2), (Failure, 1)])
def test_users_mistakes_and_failures_have_their_own_exit_status(kind: type[SaeError], status: int) -> None:
    assert issubclass(kind, SaeError)
    assert kind.exit_code == status


def test_nearest_name_is_the_one_that_is_spelled_most_alike() -> None:
    assert nearest_name("sparsty_los", ["L2_loss", "sparsity_loss"]) == "sparsity_loss"
    assert nearest_name("zzz", ["L2_loss", "sparsity_loss"]) is None
    assert nearest_name("anything", []) is None
