"""Where the project is, what DVC needs there, and the order of its stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project import choose_stages, find_root, stage_names
from sae.config import InputError
from tests.pipeline.toy import ROOT, Stages, make_toy, write_stages

CHAIN: Stages = {
    "last": {"cmd": "true", "deps": ["middle/part.txt"], "metrics": [{"m.json": {"cache": False}}]},
    "first": {"cmd": "true", "outs": [{"first.txt": {"cache": True}}]},
    "middle": {"cmd": "true", "wdir": "middle", "deps": ["../first.txt"], "outs": ["."]},
    "alone": {"cmd": "true"},
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "a toy", CHAIN)


def test_the_root_is_found_from_a_folder_within(toy: Path) -> None:
    (toy / "deep" / "er").mkdir(parents=True)
    assert find_root(toy / "deep" / "er") == toy


def test_a_folder_outside_any_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dvc\.yaml and params\.yaml here or in a folder above.*--root"):
        find_root(tmp_path)


def test_an_unpacked_archive_is_told_how_to_become_a_repository(toy: Path) -> None:
    (toy / ".git").rename(toy / "no-git")
    with pytest.raises(InputError, match=r"no git repository.*git init && git add --all && git "):
        find_root(toy)


def test_a_missing_dvc_folder_is_reported(toy: Path) -> None:
    (toy / ".dvc").rename(toy / "no-dvc")
    with pytest.raises(InputError, match=r"\.dvc is missing"):
        find_root(toy)


def test_a_stage_comes_after_those_whose_outputs_it_reads(toy: Path) -> None:
    assert stage_names(toy) == ["first", "middle", "last", "alone"]


def test_the_stages_of_this_project_stand_in_dvc_yaml_in_their_order() -> None:
    assert stage_names(ROOT)[:3] == ["inputs", "tokens", "activations"]


def test_chosen_stages_keep_the_pipelines_order(toy: Path) -> None:
    assert choose_stages(toy, ["last", "first"]) == ["first", "last"]


def test_an_unknown_stage_is_an_error_that_names_the_nearest(toy: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'middle'"):
        choose_stages(toy, ["midle"])


def test_stages_that_wait_for_each_other_are_an_error(toy: Path) -> None:
    write_stages(toy, {"a": {"cmd": "true", "deps": ["b"], "outs": ["a"]}, "b": {"cmd": "true", "deps": ["a"], "outs": ["b"]}})
    with pytest.raises(InputError, match="read each other's outputs: a, b"):
        stage_names(toy)


@pytest.mark.parametrize("text", ["stages: [", "stages: 3\n", "stages: {a: {deps: [x]}}\n"])
def test_a_broken_dvc_yaml_is_one_message(toy: Path, text: str) -> None:
    (toy / "dvc.yaml").write_text(text)
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        stage_names(toy)
