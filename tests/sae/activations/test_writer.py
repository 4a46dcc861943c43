"""Writing a store: whoever is killed, and however many write it, the bytes are the same."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.activations import writer as writer_module
from sae.activations.claims import Claims
from sae.activations.parts import PartBuilder
from sae.activations.store import Store
from sae.activations.writer import StoreWriter
from sae.config import Failure, InputError
from tests.sae.activations.stores import ROWS, digests, layout_of, produce, rows_of, writer, written

ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    pass


def kill_at(part: int, store: StoreWriter) -> Any:
    """Gives the rows of the parts, and ends in the middle of one of them."""
    give = produce(rows_of(), store.bounds)

    def until(index: int, builder: PartBuilder) -> None:
        give(index, builder)
        if index == part:
            raise Killed

    return until


@pytest.mark.parametrize("part", [0, 1, 3])
def test_writer_that_was_killed_goes_on_to_the_same_bytes(part: int, tmp_path: Path) -> None:
    written(tmp_path / "whole")
    killed = writer(tmp_path / "killed")
    with pytest.raises(Killed):
        killed.write_parts(kill_at(part, killed))
    resumed = writer(tmp_path / "killed")
    done: list[int] = []
    given: list[int] = []

    def give(index: int, builder: PartBuilder) -> None:
        given.append(index)
        produce(rows_of(), resumed.bounds)(index, builder)

    resumed.write_parts(give, progress=done.append)
    assert given == list(range(part, 4))  # what was whole is not captured again
    assert sum(done) == 30 * part
    resumed.finish({"tokens": "abc"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("format", ["safetensors", "parquet"])
@pytest.mark.parametrize("step", range(12))
def test_writer_that_was_killed_at_any_file_of_the_end_goes_on_to_the_same_bytes(
    step: int, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(tmp_path / "whole", format=format)
    assert len(whole.manifest.shards) == 5
    killed = writer(tmp_path / "killed", format=format)
    killed.write_parts(produce(rows_of(), killed.bounds))
    calls = 0
    rename = Path.rename

    def rename_some(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed  # after the file was written, before it has its name
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_some)
    with pytest.raises(Killed):
        killed.finish({"tokens": "abc"})
    monkeypatch.undo()
    resumed = writer(tmp_path / "killed", format=format)
    resumed.write_parts(produce({}, []))  # nothing is asked for again
    resumed.finish({"tokens": "abc"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_writer_that_was_killed_before_it_dropped_the_parts_drops_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = writer(tmp_path)
    killed.write_parts(produce(rows_of(), killed.bounds))
    monkeypatch.setattr(writer_module.StoreWriter, "drop_parts", lambda _: None)
    killed.finish({})
    monkeypatch.undo()
    assert (tmp_path / ".parts").exists()
    (tmp_path / ".shard-00000.0123abcd.safetensors").write_bytes(b"half")  # of one that was killed while it wrote
    (tmp_path / ".tmpY9SdsE").write_bytes(b"half")  # safetensors writes so
    writer(tmp_path).finish({})
    assert not list(tmp_path.glob(".*"))


def test_shares_of_several_workers_make_the_store_of_one(tmp_path: Path) -> None:
    written(tmp_path / "one")
    for share in (2, 0, 1):
        worker = writer(tmp_path / "three", part_rows=30)
        worker.write_parts(produce(rows_of(), worker.bounds), share=(share, 3))
        if share != 1:
            with pytest.raises(Failure, match=r"of the 4 parts of this capture are missing .*found no part"):
                writer(tmp_path / "three").finish({"tokens": "abc"})
    writer(tmp_path / "three").finish({"tokens": "abc"})
    assert digests(tmp_path / "three") == digests(tmp_path / "one")


def test_parts_may_lie_in_another_folder(tmp_path: Path) -> None:
    written(tmp_path / "one")
    layout = layout_of()
    worker = StoreWriter(tmp_path / "two", layout, [0, 30, 60, 90, ROWS], parts=tmp_path / "shared")
    worker.write_parts(produce(rows_of(), worker.bounds))
    assert len(list((tmp_path / "shared").glob("part-*"))) == 4
    worker.finish({"tokens": "abc"})
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_store_that_is_not_finished_has_no_manifest(tmp_path: Path) -> None:
    store = writer(tmp_path)
    store.write_parts(produce(rows_of(), store.bounds))
    assert [path.name for path in tmp_path.iterdir()] == [".parts"]
    with pytest.raises(InputError, match="no activation store"):
        Store(tmp_path)


def test_damaged_part_is_named(tmp_path: Path) -> None:
    store = writer(tmp_path)
    store.write_parts(produce(rows_of(), store.bounds))
    store.part_path(2).write_bytes(b"nothing")
    with pytest.raises(Failure, match=r"part-00002\.safetensors: this shard is damaged"):
        store.finish({})


# Processes


WORKER = """
    import sys, time
    from pathlib import Path
    from tests.sae.activations.stores import produce, rows_of, writer

    store = writer(Path(sys.argv[1]), part_rows=5)
    give = produce(rows_of(), store.bounds)

    def slowly(index, builder):
        give(index, builder)
        print("part", index, flush=True)
        time.sleep(0.02)

    store.write_parts(slowly)
    store.finish({"tokens": "abc"})
"""


def start(directory: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(directory)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_divide_the_work_and_harm_nothing(tmp_path: Path) -> None:
    written(tmp_path / "one", part_rows=5)
    processes = [start(tmp_path / "two") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split("part ")[1:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    parts = sorted(int(number) for output in outputs for number in output)
    assert parts == list(range(21))  # each by one of them
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_claims_of_a_killed_process_are_free(tmp_path: Path) -> None:
    written(tmp_path / "one", part_rows=5)
    killed = start(tmp_path / "two")
    assert killed.stdout is not None
    killed.stdout.readline()  # it holds a claim and sleeps
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    process = start(tmp_path / "two")
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_a_claim_holds_between_processes_and_ends_with_its_block(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from sae.activations.claims import Claims\n"
    code += "with Claims(Path(sys.argv[1])) as claims, claims.holding(3) as mine: print(mine)"

    def asked_by_another() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "claims")]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stdout.strip()

    with Claims(tmp_path / "claims") as claims:
        with claims.holding(3) as mine:
            assert mine
            assert asked_by_another() == "False"
        assert asked_by_another() == "True"


def test_work_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from sae.activations.claims import Claims\n"
    code += "with Claims(Path(sys.argv[1]) / 'claims') as claims, claims.holding(0): print('held', flush=True); time.sleep(0.6); "
    code += "(Path(sys.argv[1]) / 'done').touch()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    other.stdout.readline()
    done: list[int] = []
    began = time.monotonic()
    with Claims(tmp_path / "claims") as claims:
        claims.work_off([0, 1], lambda number: number in done or (number == 0 and (tmp_path / "done").exists()), done.append)
    assert done == [1]
    assert time.monotonic() - began > 0.3
    other.wait()


# A full disk


@pytest.mark.parametrize("format", ["safetensors", "parquet"])
def test_full_disk_is_one_clear_failure_that_keeps_what_is_whole(format: str, tmp_path: Path) -> None:
    """The system refuses files over a size here; a really full disk gives the same error with another number."""
    rows = 4000
    layout = layout_of(rows=rows, hook_points={"a": 8}, shard_bytes=80_000, format=format)
    columns = rows_of(rows, {"a": 8})
    bounds = [0, 500, rows]  # the second part is over the limit

    def attempt() -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        try:
            store = StoreWriter(tmp_path / "store", layout, bounds)
            store.write_parts(produce(columns, bounds))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.raises(Failure, match=r"part-00001\.safetensors: the disk is full; what is whole is kept.*MB more"):
        attempt()
    left = [path.name for path in (tmp_path / "store" / ".parts").iterdir()]
    assert sorted(left) == ["part-00000.safetensors", "parts.claims"]
    store = StoreWriter(tmp_path / "store", layout, bounds)
    store.write_parts(produce(columns, bounds))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(Failure, match=rf"shard-00000\.{format}: the disk is full"):
            store.finish({})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert StoreWriter(tmp_path / "store", layout, bounds).finish({}).rows == rows
    assert Store(tmp_path / "store").damaged_shards() == []


def test_records_of_shards_are_readable_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = writer(tmp_path)
    store.write_parts(produce(rows_of(), store.bounds))
    monkeypatch.setattr(writer_module.StoreWriter, "drop_parts", lambda _: None)
    manifest = store.finish({})
    record = json.loads((tmp_path / ".parts" / "shard-00001.json").read_text())
    assert record["sha256"] == manifest.shards[1].sha256
    assert torch.isfinite(Store(tmp_path).mean("a")).all()
