"""Capturing: the store holds what transformers itself says that the model computes, row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from sae.activations.capture import ActivationsConfig, Capture, capture
from sae.activations.layout import Layout
from sae.activations.parts import PartBuilder
from sae.activations.store import Store
from sae.config import Failure, InputError, parse_config
from sae.corpus.tokens import TokenSet
from tests.sae.language_model import BOS, EOS, UNK, random_tokens, tiny_llama

MODEL = tiny_llama(layers=3)
POINTS = ["model.layers.0", "model.layers.2.input"]
S, C = 23, 9


def tokens() -> TokenSet:
    """Sequences with BOS in front and an end of text here and there; documents change there."""
    tokens_SC = random_tokens(S, C)
    tokens_SC[::3, 4] = EOS
    special_SC = tokens_SC >= BOS
    document_SC = torch.arange(S)[:, None].expand(S, C).masked_fill(special_SC, -1).int()
    position_SC = torch.arange(C).expand(S, C).int().contiguous()
    return TokenSet(tokens_SC, document_SC, position_SC, [f"doc{i}" for i in range(S)], [BOS, EOS, UNK], complete=True)


def config(**more: Any) -> ActivationsConfig:
    section = {"hook_points": POINTS, "dtype": "float32", "batch_size": 4, "shard_mb": 1} | more
    return parse_config(ActivationsConfig, section, "activations")


def captured(directory: Path, split: str = "train", **more: Any) -> dict[str, Tensor]:
    capture(MODEL, tokens(), config(**more), directory, split=split, inputs={"tokens": "abc"})
    store = Store(directory)
    names = [*store.manifest.hook_points, "document", "position", "token"]
    shards = [store.read_shard(i, names) for i in range(len(store.manifest.shards))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in names}


def expected() -> dict[str, Tensor]:
    with torch.no_grad():
        states = MODEL(input_ids=tokens().tokens_SC, output_hidden_states=True).hidden_states
    return {"model.layers.0": states[1], "model.layers.2.input": states[2]}


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


def test_training_rows_are_the_models_activations_at_their_document_and_position(tmp_path: Path) -> None:
    rows, states, given = captured(tmp_path), expected(), tokens()
    document, position = rows["document"].long(), rows["position"].long()
    for name, x_SCD in states.items():
        torch.testing.assert_close(rows[name], x_SCD[document, position], rtol=1e-5, atol=1e-6)
    assert torch.equal(rows["token"], given.tokens_SC[document, position])


def test_training_rows_leave_out_special_tokens_and_hold_every_other_once(tmp_path: Path) -> None:
    rows, given = captured(tmp_path), tokens()
    places = rows["document"] * C + rows["position"]
    assert sorted(places.tolist()) == (~given.special_SC).flatten().nonzero().flatten().tolist()
    assert not (rows["token"] >= BOS).any()


def test_training_rows_are_shuffled_over_the_whole_split(tmp_path: Path) -> None:
    document = captured(tmp_path)["document"].double()
    order = torch.arange(len(document)).double()
    assert abs(float(torch.corrcoef(torch.stack([order, document]))[0, 1])) < 4 / len(document) ** 0.5


def test_held_out_rows_are_whole_sequences_in_order_with_special_tokens(tmp_path: Path) -> None:
    rows, given = captured(tmp_path, "held_out"), tokens()
    assert torch.equal(rows["token"].view(S, C), given.tokens_SC)
    assert torch.equal(rows["document"].view(S, C), given.document_SC)
    for name, x_SCD in expected().items():
        torch.testing.assert_close(rows[name].view(S, C, -1), x_SCD, rtol=1e-5, atol=1e-6)
    manifest = Store(tmp_path).manifest
    assert (manifest.split, manifest.context, manifest.shuffle_seed, manifest.rows) == ("held_out", C, None, S * C)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_activations_are_stored_in_the_type_asked_for(dtype: str, tmp_path: Path) -> None:
    rows = captured(tmp_path, "held_out", dtype=dtype)
    for name, x_SCD in expected().items():
        assert rows[name].dtype == getattr(torch, dtype)
        torch.testing.assert_close(rows[name].view(S, C, -1), x_SCD.to(rows[name].dtype), rtol=1e-2, atol=1e-2)


def test_seed_decides_the_order_of_the_rows(tmp_path: Path) -> None:
    one, again, other = (captured(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    assert torch.equal(one["token"], again["token"])
    assert not torch.equal(one["token"], other["token"])
    assert sorted(one["token"].tolist()) == sorted(other["token"].tolist())


def test_hook_point_that_is_named_twice_is_captured_once(tmp_path: Path) -> None:
    capture(MODEL, tokens(), config(hook_points=["model.layers.0"] * 2), tmp_path, split="train", inputs={})
    assert Store(tmp_path).manifest.hook_points == {"model.layers.0": 16}


def test_unknown_hook_point_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"activations\.hook_points.*model\.layers\.2"):
        captured(tmp_path / "store", hook_points=["model.layers.9"])
    assert not (tmp_path / "store").exists()


def test_progress_counts_the_rows(tmp_path: Path) -> None:
    counted: list[int] = []
    capture(MODEL, tokens(), config(), tmp_path, split="train", inputs={}, progress=counted.append)
    assert sum(counted) == int((~tokens().special_SC).sum())


# Resuming


class Killed(Exception):
    pass


def kill_after(batches: int) -> Callable[[int], None]:
    """A progress callback that ends the capture; the first call, before any batch, tells of resumed rows."""
    calls = 0

    def progress(rows: int) -> None:
        nonlocal calls
        calls += 1
        if calls > batches:
            raise Killed

    return progress


def many_tokens() -> TokenSet:
    many = tokens()
    for name in ("tokens_SC", "document_SC", "position_SC"):
        setattr(many, name, getattr(many, name).repeat(10, 1))
    return many


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("batches", [1, 40, 65, 100])
def test_capture_that_was_killed_goes_on_to_the_same_bytes(
    split: str, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "shard_rows", 500)  # 230 sequences of 9: four or five parts of 28 batches
    many = many_tokens()
    options: dict[str, Any] = {"config": config(batch_size=2), "split": split, "inputs": {"tokens": "abc"}}
    capture(MODEL, many, directory=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        capture(MODEL, many, directory=tmp_path / "killed", progress=kill_after(batches), **options)
    resumed: list[int] = []
    capture(MODEL, many, directory=tmp_path / "killed", progress=resumed.append, **options)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert (resumed[0] > 20) == (batches >= 40)  # a whole part was there already
    assert sum(resumed) == Store(tmp_path / "whole").manifest.rows


def test_finished_split_is_not_captured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured(tmp_path)
    before = digests(tmp_path)
    (tmp_path / ".parts").mkdir()  # killed between its last two steps

    def write(*_: object, **__: object) -> None:
        raise AssertionError("a row was written again")

    monkeypatch.setattr(PartBuilder, "write", write)
    counted: list[int] = []
    manifest = capture(MODEL, tokens(), config(), tmp_path, split="train", inputs={"tokens": "abc"}, progress=counted.append)
    assert digests(tmp_path) == before
    assert counted == [manifest.rows]


# Which hook points, which rows


def test_a_pattern_means_every_module_that_fits_in_the_models_order(tmp_path: Path) -> None:
    rows = captured(tmp_path, "held_out", hook_points=["model.layers.*.mlp.input", "model.layers.[02]"])
    names = [f"model.layers.{i}.mlp.input" for i in range(3)] + ["model.layers.0", "model.layers.2"]
    assert list(rows)[:5] == names
    alone = captured(tmp_path / "alone", "held_out", hook_points=["model.layers.1.mlp.input"])
    assert torch.equal(rows["model.layers.1.mlp.input"], alone["model.layers.1.mlp.input"])


def test_pattern_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"activations\.hook_points: .*found model\.blocks\.\*.*model\.layers\.2"):
        captured(tmp_path, hook_points=["model.blocks.*"])


def test_outliers_are_left_out_of_training_and_counted(tmp_path: Path) -> None:
    whole = captured(tmp_path / "whole")
    norms = {name: torch.linalg.vector_norm(whole[name], dim=1) for name in POINTS}
    kept = torch.stack([norms[name] <= 1.2 * norms[name].median() for name in POINTS]).all(0)
    assert 0 < int(kept.sum()) < len(kept)
    rows = captured(tmp_path / "less", outlier_norm=1.2)  # all sequences are among those that the median is taken from
    manifest = Store(tmp_path / "less").manifest
    assert (manifest.rows, manifest.left_out) == (int(kept.sum()), int((~kept).sum()))
    assert torch.equal(rows["token"], whole["token"][kept])
    assert torch.equal(rows[POINTS[0]], whole[POINTS[0]][kept])
    assert manifest.about["largest_norms"] == pytest.approx({name: 1.2 * float(norms[name].median()) for name in POINTS})


def test_outliers_stay_in_held_out_sequences(tmp_path: Path) -> None:
    captured(tmp_path, "held_out", outlier_norm=1.2)
    assert Store(tmp_path).manifest.rows == S * C


def test_autocast_runs_the_model_in_mixed_precision(tmp_path: Path) -> None:
    exact, mixed = captured(tmp_path / "exact", "held_out"), captured(tmp_path / "mixed", "held_out", autocast="bfloat16")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = MODEL(input_ids=tokens().tokens_SC[:4], output_hidden_states=True).hidden_states[1]
    x = mixed["model.layers.0"].view(S, C, -1)[:4]
    torch.testing.assert_close(x, expected.float(), rtol=1e-2, atol=1e-2)
    assert not torch.equal(exact["model.layers.0"], mixed["model.layers.0"])


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("more", [{}, {"outlier_norm": 1.2}, {"dtype": "int8"}], ids=str)
def test_workers_that_share_the_parts_make_the_store_of_one(
    workers: int, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "shard_rows", 300)
    options: dict[str, Any] = {"split": "train", "inputs": {"tokens": "abc"}}
    capture(MODEL, many_tokens(), config(**more), tmp_path / "one", **options)
    made = [Capture(MODEL, many_tokens(), config(**more), tmp_path / "several", **options) for _ in range(workers)]
    assert made[0].writer.count > workers
    for index in reversed(range(workers)):
        made[index].write_parts(share=(index, workers))
    made[0].finish()
    assert digests(tmp_path / "several") == digests(tmp_path / "one")


# What is refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"format": "parquet", "dtype": "bfloat16"}, r"Parquet has no bfloat16"),
        ({"format": "parquet", "dtype": "float8"}, r"Parquet has no float8"),
        ({"store": "stream", "outlier_norm": 5.0}, r"a stream can't leave rows out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**more)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), None])
def test_running_out_of_memory_names_the_setting_to_lower(error: Exception | None, tmp_path: Path) -> None:
    def too_large(*_: object) -> None:
        if error is not None:
            raise error
        torch.empty(2**62, dtype=torch.uint8)  # more than any machine has

    handle = MODEL.model.layers[0].register_forward_pre_hook(too_large)
    try:
        with pytest.raises(Failure, match=r"activations\.batch_size: out of memory: .*expected a smaller one"):
            captured(tmp_path)
    finally:
        handle.remove()


# The shuffle


def test_rows_of_a_document_are_spread_over_the_split_as_by_chance(tmp_path: Path) -> None:
    """Chi-square tests: of where the rows of each document lie, and of which documents are neighbours."""
    documents, each, blocks = 40, 300, 10
    sequences, context = documents * each // 8, 8
    many = TokenSet(
        random_tokens(sequences, context),
        (torch.arange(sequences * context) // each).view(sequences, context).int(),
        torch.zeros(sequences, context, dtype=torch.int32),
        [],
        [],
        complete=True,
    )
    capture(MODEL, many, config(hook_points=POINTS[:1]), tmp_path, split="train", inputs={})
    document_N = Store(tmp_path).read_shard(0, ["document"])["document"].long()
    table = torch.stack([torch.bincount(part_N, minlength=documents) for part_N in document_N.chunk(blocks)])
    assert table.sum() == documents * each
    assert scipy.stats.chi2_contingency(table.numpy()).pvalue > 1e-3
    same = int((document_N[1:] == document_N[:-1]).sum())  # of 11,999 pairs of neighbours one in 40 by chance
    assert scipy.stats.binomtest(same, len(document_N) - 1, (each - 1) / (documents * each - 1)).pvalue > 1e-3
    in_sequence = torch.stack([torch.bincount(p, minlength=documents) for p in document_N.sort().values.chunk(blocks)])
    assert scipy.stats.chi2_contingency(in_sequence.numpy()).pvalue < 1e-9  # the test would see it
