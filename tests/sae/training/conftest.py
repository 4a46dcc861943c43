"""Statistics are taken from a small sample: these runs are tiny."""

from __future__ import annotations

import pytest

from sae.training import normalize


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "SAMPLE_ROWS", 4096)
