"""What a capture costs is said before it starts, and what can't be held is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from sae.activations.capture import Capture
from sae.activations.layout import Layout
from sae.activations.plan import SPARE, plan
from sae.config import Failure
from tests.sae.activations.test_capture import MODEL, C, Killed, S, config, kill_after, many_tokens, tokens


def captures(folder: Path, **more: Any) -> list[Capture]:
    return [Capture(MODEL, tokens(), config(**more), folder / s, split=s, inputs={}) for s in ("train", "held_out")]


@pytest.mark.parametrize("more", [{}, {"dtype": "int8"}, {"format": "parquet", "dtype": "float16"}], ids=str)
def test_sizes_are_those_of_the_store_that_it_becomes(more: dict[str, Any], tmp_path: Path) -> None:
    work = captures(tmp_path, **more)
    expected = plan(work)
    for capture in work:
        capture.write_parts()
    manifests = [capture.finish() for capture in work]
    assert expected.rows == sum(manifest.rows for manifest in manifests) == int((~tokens().special_SC).sum()) + S * C
    assert expected.shards == sum(len(manifest.shards) for manifest in manifests)
    size = sum(shard.bytes for manifest in manifests for shard in manifest.shards)
    assert 0 <= size - expected.bytes < 4000 * expected.shards  # the files' own headers come on top
    assert expected.seconds > 0


def test_what_is_done_already_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "shard_rows", 300)

    def made() -> Capture:
        return Capture(MODEL, many_tokens(), config(), tmp_path, split="train", inputs={})

    whole = plan([made()])
    with pytest.raises(Killed):
        made().write_parts(kill_after(45))
    rest = plan([made()])
    assert 0.4 * whole.disk < rest.disk < 0.9 * whole.disk
    work = made()
    work.write_parts()
    work.finish()
    assert (plan([work]).disk, plan([work]).seconds) == (0, 0)


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = captures(tmp_path)
    expected = plan(work)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=SPARE + expected.disk - 1))
    with pytest.raises(Failure, match=r"the disk has too little room.*found 1\d\d kB free.*activations\.store: stream"):
        expected.check(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=SPARE + expected.disk + 1))
    expected.check(tmp_path)


def test_too_little_memory_names_the_setting_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plan(captures(tmp_path))
    memory = psutil.virtual_memory()._replace(available=expected.memory - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(Failure, match=r"activations\.shard_mb: too little memory"):
        expected.check(tmp_path)


def test_the_plan_is_one_line_for_a_person(tmp_path: Path) -> None:
    assert str(plan(captures(tmp_path))).startswith("383 rows, 54 kB in 2 shards, ")
