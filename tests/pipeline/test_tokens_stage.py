"""The tokens stage on a tiny corpus: what its line says of sequences that are padded, and of those that are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.stage import run_stage
from pipeline.stages import inputs, tokens
from sae.corpus.tokens import TokenSet
from tests.pipeline.workspaces import make_workspace, write_params


def test_line_tells_the_share_of_padding_where_there_is_any(
    tmp_path: Path, tiny_subject: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_workspace(tmp_path / "workspace", tiny_subject)
    monkeypatch.chdir(folder)
    for changes in ({}, {"tokens.packing": "pad"}):
        write_params(folder, changes)
        assert run_stage("inputs", inputs.body) == run_stage("tokens", tokens.body) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        made = TokenSet.load(folder / "data/tokens/train")
        count, sequences = int((~made.special_SC).sum()), len(made.tokens_SC)
        beginning = f"tokens: train {count:,} tokens in {sequences:,} sequences of "
        if changes:
            assert made.lengths_S is not None
            share = 1 - int(made.lengths_S.sum()) / made.tokens_SC.numel()
            assert line.startswith(f"{beginning}up to 16 ({share:.0%} padding)")
            assert share > 0
        else:
            assert line.startswith(f"{beginning}16; ") or re.match(re.escape(beginning) + r"16 \(all that", line)
