"""One stage through DVC: what it did, what it printed, why it failed, and that stopping it leaves nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.dvc import Outcome, StageFailed, is_chatter, run_stage
from tests.pipeline.toy import Stages, make_toy, processes_with, toy_environment

STAGES: Stages = {
    "make": {"cmd": "echo working && echo made > made.txt", "params": ["train.seed"], "outs": ["made.txt"]},
    "which": {"cmd": "python -c 'import sys; print(sys.executable)'"},
    "mistake": {"cmd": "echo 'error: train.lr: wrong' >&2; echo 'error: train.steps: wrong' >&2; exit 2"},
    "failure": {"cmd": "echo step 1; echo 'error: the disk is full' >&2; exit 1"},
    "bug": {"cmd": "for i in $(seq 100); do echo line $i; done; echo 'ZeroDivisionError: division by zero'; exit 1"},
    "killed": {"cmd": "kill -9 $$"},
    "needs": {"cmd": "true", "deps": ["nowhere.txt"]},
    "forever": {"cmd": "echo ready; sleep 3611.25", "deps": ["params.yaml"], "outs": ["never.txt"]},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("dvc") / "a toy", STAGES)


@pytest.fixture(autouse=True)
def no_git_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in toy_environment().items():
        monkeypatch.setenv(name, value)


def ignore(line: str) -> None:
    pass


def failure(toy: Path, stage: str) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        run_stage(toy, stage, ignore)
    assert caught.value.stage == stage
    return caught.value


def test_ran_unchanged_and_cached_are_told_apart(toy: Path) -> None:
    lines: list[str] = []
    assert run_stage(toy, "make", lines.append) is Outcome.RAN
    assert [line for line in lines if not is_chatter(line)] == ["working"]
    assert run_stage(toy, "make", lines.append) is Outcome.UNCHANGED
    assert run_stage(toy, "make", ignore, force=True) is Outcome.RAN
    (toy / "dvc.lock").unlink()
    (toy / "made.txt").unlink()
    assert run_stage(toy, "make", lines.append) is Outcome.CACHED
    assert (toy / "made.txt").read_text() == "made\n"
    assert [line for line in lines if not is_chatter(line)] == ["working"]


def test_python_is_the_interpreter_that_started_the_run(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho another\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    lines: list[str] = []
    run_stage(toy, "which", lines.append)
    assert sys.executable in lines


def test_a_users_mistake_is_passed_on_word_for_word(toy: Path) -> None:
    error = failure(toy, "mistake")
    assert (str(error), error.exit_code, error.status) == ("train.lr: wrong\ntrain.steps: wrong", 2, 2)


def test_a_failure_is_told_in_the_stages_own_words(toy: Path) -> None:
    error = failure(toy, "failure")
    assert (str(error), error.exit_code) == ("stage 'failure' ended with exit status 1: the disk is full", 1)


def test_a_bug_shows_its_last_line_and_keeps_its_tail(toy: Path) -> None:
    error = failure(toy, "bug")
    assert str(error) == "stage 'bug' ended with exit status 1: ZeroDivisionError: division by zero"
    assert "line 99" in error.tail
    assert "line 1" not in error.tail


def test_a_stage_that_was_killed_says_so(toy: Path) -> None:
    assert "was ended by signal 9, as happens when memory runs out" in str(failure(toy, "killed"))


def test_what_dvc_itself_reports_is_passed_on(toy: Path) -> None:
    error = failure(toy, "needs")
    assert str(error) == "stage 'needs' could not be run: dependency 'nowhere.txt' does not exist"
    assert error.status is None


def test_an_interrupted_stage_leaves_no_process_and_no_lock(toy: Path) -> None:
    def interrupt(line: str) -> None:
        if line == "ready":
            assert processes_with("sleep 3611.25")
            assert json.loads((toy / ".dvc/tmp/rwlock").read_text())["write"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(toy, "forever", interrupt)
    assert processes_with("sleep 3611.25") == []
    assert not json.loads((toy / ".dvc/tmp/rwlock").read_text()).get("write")
    assert run_stage(toy, "make", ignore) in (Outcome.UNCHANGED, Outcome.CACHED, Outcome.RAN)
