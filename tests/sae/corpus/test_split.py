"""The split of documents belongs to their names, for ever."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from sae.corpus.split import is_held_out, name_fraction

NAMES = [f"folder/document {i}.py" for i in range(20_000)]


@given(st.text())
def test_fraction_is_the_head_of_a_sha256_as_a_share(name: str) -> None:
    bits = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) >> 11
    assert name_fraction(name) == bits / 2**53
    assert 0 <= name_fraction(name) < 1


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_larger_share_only_adds_documents(name: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_held_out(name, large) or not is_held_out(name, small)


@given(st.lists(st.text(), unique=True), st.lists(st.text()), st.floats(0, 1))
def test_other_documents_never_move_one_across(names: list[str], others: list[str], share: float) -> None:
    alone = {name for name in names if is_held_out(name, share)}
    together = {name for name in sorted({*names, *others}) if is_held_out(name, share)}
    assert together & set(names) == alone


def test_a_few_names_never_change_sides() -> None:
    # Pinned: a change would let held-out documents of an earlier run into the training of a later one.
    assert [round(name_fraction(name), 6) for name in ("abc.py", "json/decoder.py", "ø")] == [0.769195, 0.231174, 0.83025]


def test_share_is_held_to_about() -> None:
    for share in (0.02, 0.1, 0.5):
        found = sum(is_held_out(name, share) for name in NAMES) / len(NAMES)
        assert abs(found - share) < 4 * (share * (1 - share) / len(NAMES)) ** 0.5


def test_names_that_are_no_valid_text_have_a_side_too() -> None:
    assert 0 <= name_fraction("caf\udce9.txt") < 1  # a file name in another encoding, as Python hands it over
