"""A plan has the points of a sweep, each checked, named, and known by a key of all that its stages read and nothing else."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.sections import read_yaml
from pipeline.sweeps.plan import Plan, Point, load_plan, make_plan, short_names
from pipeline.sweeps.records import Record
from pipeline.sweeps.table import make_table
from sae.config import InputError, parse_config
from sae.sweeps import SweepConfig
from tests.pipeline.workspaces import make_workspace, run, write_params

GRID = {"train.l0_target": [2, 4], "train.seed": [0, 1]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Path:
    return make_workspace(tmp_path_factory.mktemp("plan") / "a project", tiny_subject)


@pytest.fixture
def project(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    write_params(workspace, {})
    return workspace


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def planned(root: Path, **sweep: Any) -> Plan:
    return make_plan(root, parse_config(SweepConfig, sweep, "sweep"))


def write_section(root: Path, name: str, section: Any) -> None:
    params = read_yaml(root / "params.yaml") | {name: section}
    with (root / "params.yaml").open("w") as file:
        YAML().dump(params, file)


def test_a_plan_has_the_points_in_order_with_what_the_section_says(project: Path) -> None:
    write_section(project, "sweep", {"grid": GRID, "retries": 3, "retry_delay": 0.5})
    plan = make_plan(project)
    assert [point.values for point in plan.points] == [
        dict(zip(GRID, at, strict=True)) for at in itertools.product(*GRID.values())
    ]
    assert [point.index for point in plan.points] == [0, 1, 2, 3]
    assert (plan.retries, plan.retry_delay) == (3, 0.5)
    assert plan.points == planned(project, grid=GRID).points


def test_without_an_axis_nothing_is_swept(project: Path) -> None:
    for sweep in ({}, {"points": [{}]}):
        with pytest.raises(InputError, match=r"^sweep: nothing is swept .*expected axes, such as"):
            planned(project, **sweep)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.steps", r"^sweep: this is no key of a section \(found trian.steps, .*did you mean 'train.steps'\?"),
        ("steps", r"^sweep: this is no key of a section \(found steps, expected section.key, with one of corpus, subject,"),
        ("train", r"^sweep: this is no key of a section \(found train,"),
        ("sweep.seeds", r"^sweep: this is no key of a section \(found sweep.seeds,"),
        ("train.stepz", r"^point 0 .* of the sweep: train.stepz: unknown key; did you mean 'train.steps'\?"),
        ("sae.topk.anneal.strat", r"sae.topk.anneal.strat: unknown key; did you mean 'sae.topk.anneal.start'\?"),
        ("train.steps.more", r"^point 0 .* of the sweep: train.steps: "),
    ],
)
def test_an_unknown_path_names_the_nearest(project: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(project, grid={path: [1, 2]})


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("train.steps", [10, "many"], r"^point 1 \(steps-many\) of the sweep: train\.steps: .*integer.*found 'many'"),
        ("train.lr", [0.1, -1], r"^point 1 \(lr--1\) of the sweep: train\.lr: .*greater than 0.*found -1"),
        ("sae.architecture", ["topk", "gatde"], r"^point 1 .* of the sweep: sae\.architecture: .*did you mean 'gated'\?"),
        ("activations.dtype", ["float16", "float61"], r"^point 1 .*activations\.dtype: .*did you mean 'float16'\?"),
        ("subject.model", ["data/subject", "data"], r"subject\.model"),
    ],
)
def test_a_wrong_value_names_its_point_its_field_and_what_is_expected(
    project: Path, path: str, values: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        planned(project, grid={path: values})


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("train.l0_target", [16, "16"]),
        ("train.l0_target", [16, 16.0]),
        ("train.steps", [100, "100"]),
        ("train.steps", [100, 100.0]),
        ("train.lr", ["1e-3", 0.001]),
        ("train.keep_state", [True, "true"]),
        ("run.device", ["cpu", "auto"]),
    ],
)
def test_two_spellings_of_one_point_are_refused(project: Path, path: str, values: list[Any]) -> None:
    with pytest.raises(InputError, match=r"^sweep: points 0 and 1 are the same"):
        planned(project, grid={path: values})


def test_values_are_those_that_fields_have_and_whole_numbers_stay_as_typed(project: Path) -> None:
    (point,) = planned(project, grid={"train.lr": ["1e-3"], "train.l0_target": [16], "train.steps": ["100"]}).points
    assert {path: repr(value) for path, value in point.values.items()} == {
        "train.lr": "0.001",
        "train.l0_target": "16",
        "train.steps": "100",
    }


TITLES = [".", "..", "a..b", ".lock", "a.lock", "a.lock.b", "-x", "@", "@{u}", "~^:?*[\\", "x/y//z/", "two words", "a\nb\t\0\x7f"]
TITLES += ["ends.", "/", "é", "漢" * 90, "𠀀" * 90, "x" * 300, "x" * 300 + "y", "HEAD", "a.lock.lock", "..lock", "'\"`$(rm)"]


def test_names_are_different_and_such_as_git_takes_for_refs_and_the_disk_for_files(project: Path, tmp_path: Path) -> None:
    names = [point.name for point in planned(project, grid={"report.title": TITLES, "train.seed": [0, 1]}).points]
    assert len(set(names)) == 2 * len(TITLES)
    for name in names:
        assert run(["git", "check-ref-format", f"refs/exps/ab/{name}"], tmp_path).returncode == 0, name
        assert run(["git", "check-ref-format", "--branch", name], tmp_path).returncode == 0, name
        (tmp_path / f"{name}.log").touch()
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_name_tells_what_differs(project: Path) -> None:
    names = [point.name for point in planned(project, grid={"train.l0_target": [2.5, 4], "train.seed": [7]}).points]
    assert [name.rpartition("-")[0] for name in names] == ["l0_target-2.5", "l0_target-4"]
    nested = planned(project, points=[{"sae.topk.anneal.start": 2}, {"train.optimizer.name": "sgd"}, {}])
    assert [point.name.rpartition("-")[0] for point in nested.points] == ["start-2", "name-sgd", "base"]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=4).map(".".join), min_size=1, max_size=6, unique=True))
def test_short_names_are_ends_of_their_paths_and_differ(paths: list[str]) -> None:
    names = short_names(paths)
    assert list(names) == paths
    assert len(set(names.values())) == len(paths)
    assert all(f".{path}".endswith(f".{name}") for path, name in names.items())


def key_of(root: Path, **values: Any) -> str:
    return planned(root, points=[{"train.seed": 3} | values]).points[0].key


def test_a_key_is_the_same_in_another_folder_and_at_another_time(
    project: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / ".work", ignore_errors=True)
    for path in copy.rglob("*"):
        path.touch()
    there = planned(copy, grid=GRID)
    monkeypatch.chdir(project)
    assert planned(project, grid=GRID) == there


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("corpus.held_out", 0.4),
        ("tokens.context", 8),
        ("activations.seed", 1),
        ("sae.expansion", 8),
        ("sae.vanilla", {}),
        ("train.seed", 4),
        ("evaluate.latents", 5),
        ("report.title", "Another"),
        ("run.threads", 2),
    ],
)
def test_a_key_changes_with_what_stages_read(project: Path, path: str, value: Any) -> None:
    before = key_of(project)
    assert key_of(project, **{path: value}) != before
    write_params(project, {} if path == "train.seed" else {path: value})
    assert (key_of(project) == before) == (path == "train.seed")


@pytest.mark.parametrize("path", ["run.device", "run.log", "run.workers", "run.grace"])
def test_a_key_does_not_change_with_how_it_is_run(project: Path, path: str) -> None:
    before = key_of(project)
    values = {"run.device": "auto", "run.log": [], "run.workers": 2, "run.grace": 5.0}
    write_params(project, {path: values[path]})
    assert key_of(project) == before


def append(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with (root / path).open("a") as file:
        file.write("\n")


def swap_bytes(root: Path, path: str) -> None:
    content = (root / path).read_bytes()
    (root / path).write_bytes(content[::-1])


@pytest.mark.parametrize(
    ("change", "path", "changes"),
    [
        (append, "corpus/3.txt", True),
        (swap_bytes, "corpus/3.txt", True),
        (append, "corpus/another.txt", True),
        (append, "corpus/notes.md", False),
        (append, "sae/training/trainer.py", True),
        (append, "pipeline/stages/tokens.py", True),
        (swap_bytes, "pipeline/report/page.css", True),
        (append, "data/subject/config.json", True),
        (swap_bytes, "data/subject/model.safetensors", True),
        (append, "data/subject/README.md", False),
        (append, "pipeline/sweeps/plan.py", False),
        (append, "pipeline/commands/sweep.py", False),
        (append, "README.md", False),
        (append, "data/tokens/other.json", False),
        (append, "dvc.yaml", False),
    ],
)
def test_a_key_changes_with_inputs_and_code_of_stages_and_no_other_file(
    copy: Path, change: Callable[[Path, str], None], path: str, changes: bool
) -> None:
    before = key_of(copy)
    change(copy, path)
    assert (key_of(copy) != before) == changes


def test_a_key_changes_with_a_command_in_dvc_yaml(copy: Path) -> None:
    before = key_of(copy)
    text = (copy / "dvc.yaml").read_text()
    (copy / "dvc.yaml").write_text(text.replace("python -m pipeline.stages.train", "python -W error -m pipeline.stages.train"))
    assert key_of(copy) != before


def test_the_section_of_the_sweep_is_in_no_key(project: Path) -> None:
    before = key_of(project)
    write_section(project, "sweep", {"grid": {"train.lr": [1, 2]}, "seeds": 5})
    assert key_of(project) == before


@pytest.mark.parametrize(
    ("grid", "different"),
    [
        ({"train.l0_target": [2, 4], "train.lr": [1e-3, 1e-4], "sae.architecture": ["topk", "gated"]}, 1),
        ({"evaluate.latents": [2, 3], "report.title": ["a", "b"], "sae.expansion": [2, 4]}, 1),
        ({"activations.hook_points": [["model.layers.0"], ["model.layers.1"]], "train.seed": [0, 1]}, 2),
        ({"tokens.context": [8, 16], "train.seed": [0, 1]}, 2),
        ({"corpus.held_out": [0.2, 0.3], "activations.seed": [0, 1], "train.seed": [0, 1]}, 4),
        ({"subject.dtype": ["float32", "bfloat16"]}, 2),
    ],
)
def test_points_that_share_their_activations_have_one_upstream(project: Path, grid: dict[str, Any], different: int) -> None:
    plan = planned(project, grid=grid)
    assert len({point.upstream for point in plan.points}) == different
    assert len({point.key for point in plan.points}) == len(plan.points)
    shared = [path for path in grid if path.split(".")[0] in ("corpus", "tokens", "subject", "activations")]
    by_settings = {tuple(repr(point.values[path]) for path in shared): point.upstream for point in plan.points}
    assert all(by_settings[tuple(repr(point.values[path]) for path in shared)] == point.upstream for point in plan.points)


def test_the_id_of_a_sweep_is_that_of_its_points(project: Path) -> None:
    ids = [planned(project, grid=grid).id for grid in (GRID, GRID, GRID | {"train.seed": [0, 2]}, {"train.seed": [0, 1]})]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_condition_holds_for_what_the_file_leaves_to_its_default(project: Path) -> None:
    branch = {"grid": {"train.auxk.k": [1, 2]}}
    grid = {"train.seed": [0]}
    assert "dead_latents" not in read_yaml(project / "params.yaml")["train"]
    assert len(planned(project, grid=grid, when=[{"if": {"train.dead_latents": "none"}, **branch}]).points) == 2
    assert len(planned(project, grid=grid, when=[{"if": {"train.dead_latents": "auxk"}, **branch}]).points) == 1


def test_a_condition_on_an_unknown_path_names_the_nearest(project: Path) -> None:
    when = [{"if": {"sae.architectur": "topk"}, "grid": {"train.lr": [1, 2]}}]
    with pytest.raises(InputError, match=r"sweep\.when\.0\.if: .*sae\.architectur\b.*did you mean 'sae\.architecture'"):
        planned(project, grid=GRID, when=when)


def test_a_plan_is_read_as_it_was_saved(project: Path) -> None:
    plan = planned(project, grid=GRID | {"report.title": ["é"], "tokens.exclude": [[1, "<s>"]]})
    plan.save(project)
    assert load_plan(project, plan.id) == plan
    with pytest.raises(InputError, match=f"no such sweep .*{plan.id}"):
        load_plan(project, "x" + plan.id[1:])


def test_a_thousand_points_are_planned_and_come_into_a_table(project: Path, tmp_path: Path) -> None:
    sweep = {
        "grid": {"sae.architecture": ["topk", "gated"], "train.l0_target": [1, 2, 4, 8, 16]},
        "when": [
            {"if": {"sae.architecture": "topk"}, "grid": {"sae.expansion": [2, 4, 8, 16]}},
            {"if": {"sae.architecture": "gated"}, "random": {"draws": 4, "fields": {"train.lr": {"log_uniform": [1e-4, 1e-2]}}}},
        ],
        "seeds": 25,
    }
    points = planned(project, **sweep).points
    assert [point.index for point in points] == list(range(1000))
    for about in ("name", "key"):
        assert len({getattr(point, about) for point in points}) == 1000
    assert len({point.upstream for point in points}) == 1
    assert len({(p.values["sae.architecture"], p.values["train.l0_target"], p.values["train.seed"]) for p in points}) == 250

    def record(point: Point) -> Record:
        l0 = float(point.values["train.l0_target"])
        cost = 1 / l0 + point.index % 7
        return Record(
            point.key, point.name, point.index, point.values, "s", "done", metrics={"evaluation.l0": l0, "evaluation.fvu": cost}
        )

    table = make_table(points, {point.key: record(point) for point in points[:900]})
    assert [row["state"] for row in table.rows] == ["done"] * 900 + ["to do"] * 100
    best = {point.name for point in points[:900] if point.index % 7 == 0}
    assert table.fronts() == [best, set()]
    assert len(table.text().splitlines()) == 1001
    table.save(tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").column("name").to_pylist() == [point.name for point in points]
