"""The stages in turn on a Bert without a head, each document in sequences of its own: no loss is measured, and none is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from pipeline.stage import run_stage
from pipeline.stages import activations, evaluate, inputs, report, tokens, train
from sae.config import seeded_global_rng
from tests.pipeline.workspaces import make_workspace, write_params

STAGES = {"inputs": inputs, "tokens": tokens, "activations": activations, "train": train, "evaluate": evaluate}


@pytest.mark.parametrize("head", [False, True])
def test_a_bert_goes_through_all_stages(
    head: bool, tmp_path: Path, tiny_subject: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_workspace(tmp_path / "workspace", tiny_subject)
    tokenizer = AutoTokenizer.from_pretrained(tiny_subject)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    with seeded_global_rng(0, "bert"):
        model = BertForMaskedLM(config) if head else BertModel(config)
    model.save_pretrained(folder / "data/subject")
    tokenizer.save_pretrained(folder / "data/subject")
    name = "bert.encoder.layer.0" if head else "encoder.layer.0"
    write_params(folder, {"activations.hook_points": [name], "tokens.packing": "pad"})
    monkeypatch.chdir(folder)
    for stage, module in STAGES.items():
        assert run_stage(stage, module.body) == 0, capsys.readouterr()
    line = capsys.readouterr().out.splitlines()[-1]
    assert run_stage("report", report.body) == 0
    loss = json.loads((folder / "data/evaluation/metrics.json").read_text())["loss"]
    page = (folder / "data/report/index.html").read_text()
    assert (loss is not None) == ("loss recovered" in line) == ("Loss recovered" in page) == head
    if loss is not None:
        assert 0 < loss["tokens"] < 500
