"""What a sweep does when things go wrong: processes die, users press Ctrl-C and edit files, disks fill up.

A toy project with the real stage `inputs` and three toy ones, with DVC and git for real. Each test ends with a sweep that
is left alone, and compares what there is then with a second copy of the project in which nothing ever went wrong.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.sweeps.git import experiment_ref, git, make_clone, record_experiment, snapshot
from pipeline.sweeps.plan import Plan, Point, load_plan
from pipeline.sweeps.records import Record, Records
from pipeline.sweeps.workspace import Workspace
from tests.pipeline.toy import ROOT, Stages, toy_environment, write_stages

INPUTS = [f"data/inputs/{name}.json" for name in ("corpus", "subject", "tokenizer", "architecture", "start")]
STAGES: Stages = {
    "inputs": {
        "cmd": "python -m pipeline.stages.inputs",
        "always_changed": True,
        "params": ["corpus", "subject"],
        "outs": INPUTS,
    },
    "activations": {
        "cmd": "python stages.py activations",
        "params": ["tokens", "activations"],
        "deps": ["stages.py", *INPUTS[:2]],
        "outs": ["data/activations"],
    },
    "train": {
        "cmd": "python stages.py train",
        "params": ["sae", "train"],
        "deps": ["stages.py", "data/activations", *INPUTS[3:]],
        "outs": ["data/sae", "data/train"],
    },
    "evaluate": {
        "cmd": "python stages.py evaluate",
        "params": ["evaluate"],
        "deps": ["stages.py", "data/sae"],
        "outs": ["data/evaluation"],
    },
}
HOOKS = ("post-checkout", "pre-push", "pre-receive", "update", "post-receive", "reference-transaction", "post-index-change")


@dataclass
class Toy:
    """A project, and the folder outside of it in which its stages give an account and find their faults."""

    root: Path
    outside: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that belongs to this project: its name in it tells them from all others."""
        return toy_environment(TOY_OUTSIDE=str(self.outside))

    def account(self) -> list[str]:
        """What the stages did, in order."""
        log = self.outside / "log"
        return log.read_text().splitlines() if log.exists() else []

    def fault(self, name: str, kind: str) -> None:
        """Let a stage fail, or wait (see `fault_stages.misbehave`)."""
        fresh = self.outside / f".{name}"
        fresh.write_text(kind)
        fresh.replace(self.outside / name)

    def heal(self) -> None:
        """Take all faults away."""
        for path in self.outside.iterdir():
            if path.name not in ("log", "hooked"):
                path.unlink()

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Begin a sweep, in a process group of its own as a terminal does it."""
        command = [sys.executable, "-m", "pipeline", "sweep", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=self.environment | more, start_new_session=True, **pipes)

    def sweep(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A sweep from beginning to end, two points at a time."""
        return finish(self.start("--jobs", "2", *arguments, **more))

    def wait_for(self, *beginnings: str, seconds: float = 60) -> list[str]:
        """The first line of the account with each beginning, once all are there."""
        deadline = time.monotonic() + seconds
        while True:
            account = self.account()
            found = [next((line for line in account if line.startswith(text)), "") for text in beginnings]
            if all(found):
                return found
            assert time.monotonic() < deadline, account
            time.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        """All that run for this project: sweeps, guards, DVC, stages, git."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TOY_OUTSIDE") == str(self.outside) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def records(self) -> dict[int, Record]:
        """By seed."""
        return {record.values["train.seed"]: record for record in Records(self.root).every()}

    def results(self) -> dict[str, tuple[object, ...]]:
        """What became of the points that are done, by key; nothing in it depends on how they came about."""
        records = Records(self.root)
        return {r.key: (r.name, r.values, r.metrics, r.outputs) for r in records.every() if records.is_done(r.key)}

    def of_user(self) -> dict[str, bytes | str]:
        """All files of the user's, byte for byte: the work tree, and git's index, HEAD, branches, stash, logs and settings."""
        free = (".runs", ".work", ".dvc/tmp", ".dvc/cache", ".git/objects", ".git/refs/exps", ".git/refs/sae")
        found: dict[str, bytes | str] = {}
        for folder, folders, files in os.walk(self.root):
            folders[:] = [n for n in folders if os.path.relpath(Path(folder, n), self.root) not in free]
            for path in (Path(folder, name) for name in [*files, *folders]):
                name = path.relative_to(self.root).as_posix()
                if path.is_symlink():
                    found[name] = f"link to {path.readlink()}"
                else:
                    found[name] = path.read_bytes() if path.is_file() else "folder"
        return found


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a sweep."""
    out, err = process.communicate(timeout=90)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def as_user(root: Path, *arguments: str) -> None:
    """Run git as the project's user."""
    command = ["git", "-c", "user.name=User", "-c", "user.email=user@localhost", *arguments]
    subprocess.run(command, cwd=root, env=toy_environment(), check=True, capture_output=True)


def make(folder: Path) -> Toy:
    """A project in a path with a space, with a commit, a branch, a stash, and changes that are staged or not."""
    root, outside = folder / "a toy", folder / "outside"
    outside.mkdir(parents=True)
    (root / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    shutil.copy(Path(__file__).with_name("fault_stages.py"), root / "stages.py")
    write_stages(root, STAGES)
    change_params(
        root,
        corpus={"source": "files", "files": {"paths": ["corpus/*.txt"]}},
        subject={"model": "model"},
        sweep={"grid": {"train.seed": [0, 1, 2]}, "retries": 1, "retry_delay": 0.1},
        run={"device": "cpu", "threads": 1, "grace": 2},
    )
    for path, text in {"corpus/a.txt": "some text", "model/config.json": "{}", "model/model.safetensors": "weights"}.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    (root / "notes").write_text("one\n")
    as_user(root, "init", "--quiet")
    as_user(root, "add", "--all")
    as_user(root, "commit", "--quiet", "--message", "Start")
    as_user(root, "branch", "other")
    (root / "notes").write_text("two\n")
    as_user(root, "stash")
    (root / "notes").write_text("three\n")
    as_user(root, "add", "notes")
    (root / "notes").write_text("four\n")
    (root / "untracked").write_text("five\n")
    for name in HOOKS:
        hook = root / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f'#!/bin/sh\necho {name} >> "{outside}/hooked"\n')
        hook.chmod(0o755)
    return Toy(root, outside)


def change_params(root: Path, **sections: Any) -> None:
    """Put other sections into params.yaml."""
    file = root / "params.yaml"
    params = YAML().load(file.read_text())
    params.update(sections)
    with file.open("w") as out:
        YAML().dump(params, out)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A project; what a failed test leaves running in it is ended."""
    made = make(tmp_path)
    yield made
    for process in made.processes():
        process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A project in which the sweep was run once, without any fault."""
    made = make(tmp_path_factory.mktemp("undisturbed"))
    before = made.of_user()
    run = made.sweep()
    assert run.returncode == 0, run.stdout + run.stderr
    assert made.of_user() == before
    return made


def count(toy: Toy, *lines: str) -> list[int]:
    """How often each of some lines stands in the account."""
    return [toy.account().count(line) for line in lines]


def check_end(toy: Toy, undisturbed: Toy, before: dict[str, bytes | str], *arguments: str) -> None:
    """The next sweep ends well, with the same results; the user's files are as they were, and nothing runs any more."""
    assert toy.of_user() == before
    run = toy.sweep(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert toy.results() == undisturbed.results()
    assert toy.of_user() == before
    assert toy.processes() == []
    assert not (toy.outside / "hooked").exists()


def test_what_points_share_runs_once_and_no_hook_of_the_users_is_called(undisturbed: Toy) -> None:
    ends = [f"train-{seed} ends" for seed in range(3)]
    assert count(undisturbed, "activations-128 begins", *ends) == [1, 1, 1, 1]
    assert len(undisturbed.results()) == 3
    assert not (undisturbed.outside / "hooked").exists()
    assert list((undisturbed.root / ".runs/clones").iterdir()) == []


def test_with_nothing_to_do_neither_dvc_nor_prefect_is_started(undisturbed: Toy, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "def tell():\n"
        "    with open(os.environ['TOLD'], 'a') as file:\n"
        "        file.write(f'{sys.orig_argv[1:4]} {\"prefect\" in sys.modules}\\n')\n"
        "atexit.register(tell)\n"
    )
    before, account = undisturbed.of_user(), undisturbed.account()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = undisturbed.sweep(PYTHONPATH=path, TOLD=str(tmp_path / "told"))
    assert run.returncode == 0, run.stderr
    assert "3 points, 3 done already, 0 to do" in run.stdout
    assert (tmp_path / "told").read_text() == f"{['-m', 'pipeline', 'sweep']} False\n"
    assert undisturbed.account() == account
    assert undisturbed.of_user() == before


def test_a_killed_stage_is_tried_again_and_goes_on_from_its_checkpoint(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    sweep = toy.start("--jobs", "2")
    [line] = toy.wait_for("train-1 waits")
    os.kill(int(line.split()[-1]), signal.SIGKILL)
    toy.heal()
    run = finish(sweep)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"seed-1-\w+ +\| failed: stage 'train' (was ended by signal 9|ended with exit status 137)", run.stdout)
    steps = [line for line in toy.account() if line.startswith("train-1 begins")]
    assert steps == ["train-1 begins at step 0", "train-1 begins at step 2"]
    assert toy.records()[1].state == "done"
    assert toy.results() == undisturbed.results()
    assert toy.of_user() == before
    assert toy.processes() == []


@pytest.mark.full
def test_when_dvc_is_killed_its_stage_ends_too_and_the_point_is_tried_again(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    sweep = toy.start("--jobs", "2")
    [line] = toy.wait_for("train-1 waits")
    toy.wait_for("train-0 ends", "train-2 ends")
    stage = psutil.Process(int(line.split()[-1]))
    next(parent for parent in stage.parents() if "repro" in parent.cmdline() and "-I" not in parent.cmdline()).kill()
    stage.wait(timeout=10)
    toy.heal()
    run = finish(sweep)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "DVC ended with status 137" in run.stdout
    assert count(toy, "train-1 begins at step 0", "train-1 begins at step 2", "train-1 ends") == [1, 1, 1]
    check_end(toy, undisturbed, before)


def test_failing_points_leave_the_others_alone_and_a_users_mistake_is_not_tried_again(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-0", "fail")
    toy.fault("train-2", "mistake")
    run = toy.sweep()
    assert run.returncode == 1
    names = [toy.records()[seed].name for seed in range(3)]
    assert run.stderr == f"error: 2 of 3 points failed: {names[0]}, {names[2]}; the same command tries them again\n"
    begins = [f"train-{seed} begins at step {step}" for seed in range(3) for step in (0, 2, 3)]
    assert count(toy, *begins) == [1, 1, 0, 1, 0, 0, 1, 0, 0]
    assert {seed: record.state for seed, record in toy.records().items()} == {0: "failed", 1: "done", 2: "failed"}
    assert toy.records()[0].error == "stage 'train' ended with exit status 1: train-0 is told to fail"
    assert toy.records()[2].error == "train.lr: this is what the user did wrong"
    key = toy.records()[1].key
    assert toy.results() == {key: undisturbed.results()[key]}
    assert toy.of_user() == before
    assert toy.processes() == []


# A terminal signals the whole group, a batch system often only the process that it knows.
@pytest.mark.parametrize(
    ("signum", "to_group"),
    [
        (signal.SIGINT, True),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.full),
    ],
)
def test_an_interrupt_ends_all_at_once_and_says_how_to_go_on(
    toy: Toy, undisturbed: Toy, signum: signal.Signals, to_group: bool
) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    toy.fault("train-2", "wait")
    sweep = toy.start("--jobs", "2")
    toy.wait_for("train-1 waits", "train-2 waits")
    started = time.monotonic()
    (os.killpg if to_group else os.kill)(sweep.pid, signum)
    run = finish(sweep)
    assert time.monotonic() - started < 10
    assert toy.processes() == []
    assert run.returncode == 128 + signum
    said = [line for line in run.stderr.splitlines() if line and not line.startswith("stopping; ")]
    assert len(said) == 1
    assert said[0].endswith(": python -m pipeline sweep --jobs 2")
    assert "Traceback" not in run.stdout
    assert "failed" not in run.stdout
    assert {seed: record.state for seed, record in toy.records().items()} == {0: "done"}
    toy.heal()
    check_end(toy, undisturbed, before)
    assert count(toy, "activations-128 begins", "train-0 ends", "train-1 begins at step 2", "train-2 begins at step 2") == [1] * 4


# A terminal that is closed sends SIGHUP.
@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGHUP, marks=pytest.mark.full)])
def test_a_killed_sweep_leaves_nothing_running_and_the_next_one_goes_on_at_once(
    toy: Toy, undisturbed: Toy, signum: signal.Signals
) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    toy.fault("train-2", "wait")
    sweep = toy.start("--jobs", "2")
    lines = toy.wait_for("train-1 waits", "train-2 waits")
    sweep.send_signal(signum)
    finish(sweep)
    toy.heal()
    check_end(toy, undisturbed, before)
    assert not any(psutil.pid_exists(int(line.split()[-1])) for line in lines)
    assert count(toy, "train-0 ends", "train-1 begins at step 2", "train-2 begins at step 2") == [1, 1, 1]


@pytest.mark.parametrize("loss", ["HEAD", "objects", "everything"])
def test_a_clone_that_is_half_removed_is_made_anew_and_git_does_not_take_the_users_repository_for_it(
    tmp_path: Path, loss: str
) -> None:
    toy = make(tmp_path)
    commit, _ = snapshot(toy.root, "refs/sae/sweeps/test")
    clone = toy.root / ".runs/clones/one"
    make_clone(toy.root, clone, commit)
    before = toy.of_user()
    if loss == "everything":
        shutil.rmtree(clone / ".git")
        (clone / ".git").mkdir()
    elif loss == "HEAD":
        (clone / ".git/HEAD").unlink()
    else:
        shutil.rmtree(clone / ".git/objects")
    make_clone(toy.root, clone, commit)
    assert toy.of_user() == before
    assert git(clone, "rev-parse", "--show-toplevel", "HEAD").splitlines() == [str(clone), commit]
    assert (clone / "untracked").read_text() == "five\n"


def test_a_lock_that_a_killed_git_left_in_a_clone_is_no_obstacle(tmp_path: Path) -> None:
    toy = make(tmp_path)
    commit, _ = snapshot(toy.root, "refs/sae/sweeps/test")
    clone = toy.root / ".runs/clones/one"
    make_clone(toy.root, clone, commit)
    for name in ("index.lock", "HEAD.lock"):
        (clone / ".git" / name).touch()
    (clone / "notes").unlink()
    make_clone(toy.root, clone, commit)
    assert (clone / "notes").read_text() == "four\n"


def test_ignored_files_beside_tracked_ones_are_in_the_clone_but_in_no_experiment(tmp_path: Path) -> None:
    toy = make(tmp_path)
    (toy.root / "corpus/.gitkeep").touch()
    (toy.root / "corpus/more/of it").mkdir(parents=True)
    (toy.root / "corpus/more/of it/c.txt").write_text("even more text")
    (toy.root / "corpus/more/b.txt").write_text("more text")
    (toy.root / ".gitignore").write_text("/.runs/\n/corpus/*.txt\n/corpus/**/*.txt\n*.safetensors\n")
    as_user(toy.root, "rm", "--quiet", "--cached", "corpus/a.txt", "model/model.safetensors")
    change_params(toy.root, corpus={"source": "files", "files": {"paths": ["corpus/**/*.txt"]}})
    commit, base = snapshot(toy.root, "refs/sae/sweeps/test")
    before = toy.of_user()
    workspace = Workspace(toy.root, "one")
    for _ in range(2):
        workspace.make(commit, {})
        assert (workspace.root / "corpus/a.txt").read_text() == "some text"
        assert (workspace.root / "corpus/more/b.txt").read_text() == "more text"
        assert (workspace.root / "corpus/more/of it/c.txt").read_text() == "even more text"
        assert (workspace.root / "model/model.safetensors").read_text() == "weights"
    experiment = record_experiment(workspace.clone, workspace.repository, base, "one")
    assert git(toy.root, "ls-tree", "-r", "--name-only", experiment, "corpus", "model") == "corpus/.gitkeep\nmodel/config.json"
    workspace.remove()
    assert toy.of_user() == before


def test_a_snapshot_does_not_wait_for_a_lock_on_the_users_index(tmp_path: Path) -> None:
    toy = make(tmp_path)
    (toy.root / ".git/index.lock").touch()
    before = toy.of_user()
    commit, base = snapshot(toy.root, "refs/sae/sweeps/test")
    assert git(toy.root, "show", f"{commit}:notes") == "four"
    assert git(toy.root, "show", f"{commit}:untracked") == "five"
    assert base == git(toy.root, "rev-parse", "HEAD")
    assert toy.of_user() == before


def test_one_sweep_that_is_begun_twice_at_once_saves_its_plan(tmp_path: Path) -> None:
    plan = Plan("1a2b3c4d", [Point(0, "one", "key", "upstream", {"train.seed": 1})] * 200, retries=1, retry_delay=1.0)
    errors: list[BaseException] = []

    def save() -> None:
        try:
            for _ in range(50):
                plan.save(tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert load_plan(tmp_path, plan.id) == plan


def test_a_record_of_another_process_is_seen_by_one_that_looked_before(tmp_path: Path) -> None:
    toy = make(tmp_path)
    mine, other = Records(toy.root), Records(toy.root)
    base = git(toy.root, "rev-parse", "HEAD")
    for name in ("one", "two"):
        as_user(toy.root, "update-ref", experiment_ref(base, name), base)
        other.put(Record(name, name, 0, {}, "sweep", "done", base=base, commit=base))
        assert mine.is_done(name)


@pytest.mark.full
@pytest.mark.parametrize("same", [True, False])
def test_of_two_sweeps_at_once_each_point_is_run_by_one(toy: Toy, undisturbed: Toy, same: bool) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    one = toy.start("--jobs", "1")
    if not same:
        toy.wait_for("train-1 waits")
        change_params(toy.root, sweep={"grid": {"train.seed": [2, 1, 3]}})
        before = toy.of_user()
    other = toy.start("--jobs", "2")
    toy.wait_for("train-1 waits", *(["train-3 ends"] if not same else []))
    toy.heal()
    runs = finish(one), finish(other)
    assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    seeds = range(3 if same else 4)
    assert count(toy, "activations-128 begins", *(f"train-{seed} begins at step 0" for seed in seeds)) == [1] * (1 + len(seeds))
    told = sum(run.stdout.count("| done already, by another run") for run in runs)
    assert told == 2 or (same and 1 <= told <= 3)  # how many of the same points the later one finds done, is chance
    assert all(stage == "inputs" or what == "ran" for r in toy.records().values() for stage, what, _ in r.stages[2:])
    assert undisturbed.results().items() <= toy.results().items()
    assert toy.of_user() == before
    assert toy.processes() == []


@pytest.mark.full
@pytest.mark.parametrize("params", ["train: {seed: 5}\nsweep: {}\n", "train: [half of an edit\n"])
def test_what_the_user_edits_meanwhile_stays_and_the_points_run_what_was_there_at_the_start(
    toy: Toy, undisturbed: Toy, params: str
) -> None:
    toy.fault("activations-128", "wait")
    sweep = toy.start("--jobs", "2")
    toy.wait_for("activations-128 waits")
    files = {
        "params.yaml": params,
        "stages.py": "raise SystemExit('an edit that is not finished')\n",
        "corpus/a.txt": "another text",
        "corpus/b.txt": "one more text",
        "dvc.yaml": "stages: {}\n",
        "model/model.safetensors": "other weights",
        "untracked": "six\n",
    }
    original = {name: path.read_text() for name in files if (path := toy.root / name).exists()}
    for name, text in files.items():
        (toy.root / name).write_text(text)
    as_user(toy.root, "commit", "--all", "--quiet", "--no-verify", "--message", "More")
    (toy.outside / "hooked").unlink()
    (toy.root / "notes").write_text("seven\n")
    before = toy.of_user()
    toy.heal()
    run = finish(sweep)
    assert run.returncode == 0, run.stdout + run.stderr
    assert toy.of_user() == before
    assert toy.results() == undisturbed.results()
    for name in files:
        (toy.root / name).write_text(original[name]) if name in original else (toy.root / name).unlink()
    check_end(toy, undisturbed, toy.of_user())
    assert count(toy, *(f"train-{seed} ends" for seed in range(3))) == [1, 1, 1]


def make_ignored(folder: Path) -> Toy:
    """A project whose texts lie in a folder that git ignores."""
    made = make(folder)
    (made.root / "texts").mkdir()
    (made.root / "texts/a.txt").write_text("some text")
    shutil.rmtree(made.root / "corpus")
    (made.root / "stages.py").write_text((made.root / "stages.py").read_text().replace('Path("corpus")', 'Path("texts")'))
    with (made.root / ".gitignore").open("a") as file:
        file.write("texts/\n")
    change_params(made.root, corpus={"source": "files", "files": {"paths": ["texts/*.txt"]}})
    return made


@pytest.mark.full
def test_texts_outside_of_git_that_change_meanwhile_are_refused_and_no_experiment_has_them(tmp_path: Path) -> None:
    toy, undisturbed = make_ignored(tmp_path / "one"), make_ignored(tmp_path / "two")
    assert undisturbed.sweep().returncode == 0
    toy.fault("train-0", "wait")
    sweep = toy.start("--jobs", "1")
    toy.wait_for("train-0 waits")
    (toy.root / "texts/a.txt").write_text("another text")
    before = toy.of_user()
    toy.heal()
    run = finish(sweep)
    assert run.returncode == 1
    assert run.stderr.startswith("error: 2 of 3 points failed: ")
    assert {seed: record.state for seed, record in toy.records().items()} == {0: "done", 1: "failed", 2: "failed"}
    for seed in (1, 2):
        assert "has changed since the sweep was planned (its corpus" in toy.records()[seed].error
    assert toy.of_user() == before
    assert count(toy, "train-1 begins at step 0", "train-2 begins at step 0") == [0, 0]
    (toy.root / "texts/a.txt").write_text("some text")
    check_end(toy, undisturbed, toy.of_user())
    assert count(toy, *(f"train-{seed} ends" for seed in range(3))) == [1, 1, 1]
    for record in toy.records().values():
        assert "texts" not in git(toy.root, "ls-tree", "--name-only", record.commit).split()


@pytest.mark.full
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_in_a_stage_is_the_reason_that_is_told(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-1", "full")
    run = toy.sweep()
    assert run.returncode == 1
    assert run.stderr.startswith("error: 1 of 3 points failed: seed-1-")
    reason = "stage 'train' ended with exit status 1: [Errno 28] No space left on device"
    assert f"| failed: {reason}\n" in run.stdout
    told = {seed: (record.state, record.error) for seed, record in toy.records().items()}
    assert told == {0: ("done", ""), 1: ("failed", reason), 2: ("done", "")}
    toy.heal()
    check_end(toy, undisturbed, before)
    assert count(toy, "train-0 ends", "train-1 begins at step 0", "train-2 ends") == [1, 1, 1]


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=16m none "$DISK" && cp -a "$TOY" "$DISK/a toy" && cd "$DISK/a toy" || exit
(
    while ! grep -q fills "$TOY_OUTSIDE/log"; do sleep 0.1; done
    rm "$TOY_OUTSIDE"/train-*; sleep 6; rm .runs/clones/*/.work/ballast
) &
"$PYTHON" -m pipeline sweep --jobs 2; echo "first: $?"
wait
"$PYTHON" -m pipeline sweep --jobs 2; echo "second: $?"
cp -a "$DISK/a toy" "$AFTER"
"""


def can_mount() -> bool:
    """Whether this system lets us mount a disk of our own, in a namespace of our own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.full
def test_a_disk_that_is_full_for_all_ends_the_sweep_in_order_and_is_forgotten_once_there_is_room(
    toy: Toy, undisturbed: Toy, tmp_path: Path
) -> None:
    if not can_mount():
        pytest.skip("this system does not let us mount a small disk")
    change_params(toy.root, sweep={"grid": {"train.seed": [0, 1, 2]}, "retries": 0})
    before = toy.of_user()
    toy.fault("train-1", "fill")  # DVC may wait in the middle of a stage until there is room again
    disk, after = tmp_path / "disk", Toy(tmp_path / "after", toy.outside)
    disk.mkdir()
    paths = {"DISK": str(disk), "TOY": str(toy.root), "PYTHON": sys.executable, "AFTER": str(after.root)}
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK]
    run = subprocess.run(command, env=toy.environment | paths, capture_output=True, text=True, timeout=90, check=False)
    said = run.stdout + run.stderr
    assert "first: 1\n" in run.stdout, said
    assert "second: 0\n" in run.stdout, said
    assert "No space left on device" in run.stdout
    assert "Traceback" not in said
    assert after.results() == undisturbed.results()
    assert after.of_user() == before
    assert toy.account().count("train-1 fills the disk") >= 1
    assert toy.processes() == []


@pytest.mark.full
@pytest.mark.parametrize("loss", ["folder", "file", "experiment"])
def test_a_point_of_which_something_is_lost_is_to_do_again(toy: Toy, undisturbed: Toy, loss: str) -> None:
    before = toy.of_user()
    assert toy.sweep().returncode == 0
    record = toy.records()[1]
    if loss == "experiment":
        as_user(toy.root, "-c", "core.hooksPath=/dev/null", "update-ref", "-d", experiment_ref(record.base, record.name))
    else:
        others = {digest for seed in (0, 2) for digest in toy.records()[seed].outputs}
        cache = toy.root / ".dvc/cache/files/md5"
        folder = next(cache / d[:2] / d[2:] for d in record.outputs if d not in others)
        digest = json.loads(folder.read_text())[0]["md5"]
        (folder if loss == "folder" else cache / digest[:2] / digest[2:]).unlink()
    assert "3 points, 2 done already, 1 to do" in toy.sweep("--dry-run").stdout
    check_end(toy, undisturbed, before)
    begins = [f"train-{seed} begins at step 0" for seed in range(3)]
    assert count(toy, "activations-128 begins", *begins) == [1, 1, 1 if loss == "experiment" else 2, 1]


@pytest.mark.full
def test_what_points_share_runs_once_for_each_setting(toy: Toy) -> None:
    change_params(toy.root, sweep={"grid": {"tokens.context": [16, 32], "train.seed": [0, 1]}})
    run = toy.sweep()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 sets of activations" in run.stdout
    assert count(toy, "activations-16 begins", "activations-32 begins") == [1, 1]
    assert count(toy, "train-0 ends", "train-1 ends") == [2, 2]
    assert len(toy.results()) == 4


@pytest.mark.full
def test_when_what_points_share_fails_all_of_them_have_failed_and_say_why(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("activations-128", "fail")
    run = toy.sweep()
    assert run.returncode == 1
    assert run.stderr.startswith("error: 3 of 3 points failed: ")
    assert count(toy, "activations-128 begins") == [2]
    assert {seed: record.state for seed, record in toy.records().items()} == dict.fromkeys(range(3), "failed")
    assert all("activations-128 is told to fail" in record.error for record in toy.records().values())
    toy.heal()
    check_end(toy, undisturbed, before)


@pytest.mark.full
def test_a_second_ctrl_c_does_not_wait_for_a_stage_that_hears_nothing(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-1", "deaf")
    sweep = toy.start("--jobs", "2")
    toy.wait_for("train-1 hears nothing", "train-2 ends")
    os.killpg(sweep.pid, signal.SIGINT)
    time.sleep(0.5)
    assert sweep.poll() is None
    started = time.monotonic()
    os.killpg(sweep.pid, signal.SIGINT)
    run = finish(sweep)
    assert time.monotonic() - started < 5
    assert toy.processes() == []
    assert run.returncode == 130
    assert run.stderr.splitlines()[-1].endswith(": python -m pipeline sweep --jobs 2")
    assert "Traceback" not in run.stderr
    toy.heal()
    check_end(toy, undisturbed, before)
    assert count(toy, "train-1 begins at step 2") == [1]


@pytest.mark.full
def test_the_next_sweep_waits_until_the_stage_of_a_killed_one_has_saved_its_work(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    change_params(toy.root, sweep={"grid": {"train.seed": [0, 1, 2]}, "retries": 0})
    before |= {"params.yaml": (toy.root / "params.yaml").read_bytes()}
    toy.fault("train-1", "slow")
    sweep = toy.start("--jobs", "2")
    toy.wait_for("train-1 waits", "train-2 ends")
    sweep.kill()
    finish(sweep)
    toy.heal()
    check_end(toy, undisturbed, before)
    account = toy.account()
    assert account.index("train-1 took its time") < account.index("train-1 begins at step 2")


@pytest.mark.full
def test_an_interrupt_while_git_works_is_no_failure_of_the_point(toy: Toy, undisturbed: Toy, tmp_path: Path) -> None:
    before = toy.of_user()
    slow = tmp_path / "bin/git"
    slow.parent.mkdir()
    wait = f'case " $* " in *" push "*) echo "git pushes" >> "{toy.outside}/log"; sleep 1;; esac'
    slow.write_text(f'#!/bin/sh\n{wait}\nexec "{shutil.which("git")}" "$@"\n')
    slow.chmod(0o755)
    sweep = toy.start("--jobs", "1", PATH=f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    toy.wait_for("git pushes")
    os.killpg(sweep.pid, signal.SIGINT)
    run = finish(sweep)
    assert run.returncode == 130
    assert "failed" not in run.stdout
    assert {record.state for record in toy.records().values()} <= {"done"}
    assert toy.processes() == []
    check_end(toy, undisturbed, before)


@pytest.mark.full
def test_a_reader_that_goes_away_is_no_reason_to_end_the_sweep(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    sweep = toy.start("--jobs", "2")
    assert sweep.stdout is not None
    assert sweep.stdout.readline().startswith("sweep ")
    sweep.stdout.close()
    assert sweep.stderr is not None
    errors = sweep.stderr.read()
    assert sweep.wait() == 0, errors
    assert errors == ""
    assert toy.results() == undisturbed.results()
    check_end(toy, undisturbed, before)


@pytest.mark.full
def test_what_a_power_cut_leaves_behind_is_no_obstacle(toy: Toy, undisturbed: Toy) -> None:
    before = toy.of_user()
    toy.fault("train-1", "wait")
    sweep = toy.start("--jobs", "1")
    toy.wait_for("train-1 waits")
    sweep.kill()
    finish(sweep)
    while toy.processes():
        time.sleep(0.05)
    [clone] = (toy.root / ".runs/clones").iterdir()
    (clone / ".git/index.lock").touch()
    for path in (
        clone / ".dvc/tmp/rwlock",
        clone / "dvc.lock",
        clone / "params.yaml",
        clone / ".work/hashes.json",
        clone / ".dvc/config.local",
        toy.root / ".work/hashes.json",
        toy.root / f".work/points/{toy.records()[0].key}.json",
    ):
        path.write_text("")  # a file system may keep the name of a file and lose what was in it
    toy.heal()
    check_end(toy, undisturbed, before)
    assert count(toy, "train-0 ends", "train-1 begins at step 2") == [1, 1]
