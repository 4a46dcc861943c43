"""The package's own names: all there, and loaded only when used."""

from __future__ import annotations

import pytest

import sae


@pytest.mark.parametrize("name", sae.__all__)
def test_every_name_that_the_package_offers_exists(name: str) -> None:
    assert getattr(sae, name).__name__ == name
    assert name in dir(sae)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sae' has no attribute 'nothing'"):
        _ = sae.nothing
