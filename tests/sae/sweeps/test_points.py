"""A swept config stands for the product of its axes, in order, at any depth; each point is the config that plain values make."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline.params import Params
from sae.config import InputError, SweepableConfig, parse_config
from sae.config.swept import SweepExpression
from sae.sweeps import SweepVar, Swept, Val, dump, is_concrete, load, points, sample
from sae.training.config import TrainConfig
from sae.training.optimizers import OptimizerConfig
from sae.training.schedule import ScheduleConfig


class Ramp(SweepableConfig):
    length: int = Field(default=10, gt=0)
    shape: Literal["linear", "cosine"] = "linear"


class Run(SweepableConfig):
    lr: float = Field(default=1e-3, gt=0)
    steps: int = 100
    ramp: Ramp = Ramp()
    optional: Ramp | None = None
    weights: dict[str, float] = Field(default={})
    widths: list[int] = Field(default=[])
    pair: tuple[float, float] = (0.0, 1.0)
    ramps: list[Ramp] = Field(default=[])
    named: dict[str, Ramp] = Field(default={})


W = SweepVar(1, 2, 4, name="w")
EVERYWHERE: dict[str, Any] = {
    "lr": Swept(0.1, 0.2),
    "ramp": {"length": Swept(3, 4), "shape": Swept("linear", "cosine")},
    "optional": {"length": Swept(5, 6)},
    "weights": {"a": 1.0, "b": Swept(0.5, 2.0)},
    "widths": [7, Swept(8, 9)],
    "pair": (Swept(0.1, 0.2), 0.9),
    "ramps": [{"length": 1}, {"length": Swept(2, 3)}],
    "named": {"x": {"length": Swept(4, 5)}},
}


def plain(lr: float, length: int, shape: str, optional: int, b: float, width: int, low: float, second: int, x: int) -> Run:
    return Run.model_validate(
        {
            "lr": lr,
            "ramp": {"length": length, "shape": shape},
            "optional": {"length": optional},
            "weights": {"a": 1.0, "b": b},
            "widths": [7, width],
            "pair": (low, 0.9),
            "ramps": [{"length": 1}, {"length": second}],
            "named": {"x": {"length": x}},
        }
    )


def test_points_are_the_product_of_axes_at_any_depth_and_the_last_changes_fastest() -> None:
    axes = [(0.1, 0.2), (3, 4), ("linear", "cosine"), (5, 6), (0.5, 2.0), (8, 9), (0.1, 0.2), (2, 3), (4, 5)]
    found = points(Run(**EVERYWHERE))
    assert len(found) == 2**9
    assert [point.config for point in found] == [plain(*values) for values in itertools.product(*axes)]
    assert [tuple(point.values.values()) for point in found] == list(itertools.product(*axes))
    assert [point.index for point in found] == list(range(2**9))
    names = ["lr", "ramp.length", "ramp.shape", "optional.length", "weights.b", "widths.1", "pair.0", "ramps.1.length"]
    assert list(found[0].values) == [*names, "named.x.length"]


def test_nested_configs_may_be_given_as_instances_or_as_dicts() -> None:
    instances = EVERYWHERE | {
        "ramp": Ramp(**EVERYWHERE["ramp"]),
        "optional": Ramp(**EVERYWHERE["optional"]),
        "ramps": [Ramp(**ramp) for ramp in EVERYWHERE["ramps"]],
        "named": {"x": Ramp(**EVERYWHERE["named"]["x"])},
    }
    assert [point.config for point in points(Run(**instances))] == [point.config for point in points(Run(**EVERYWHERE))]
    assert [point.values for point in points(parse_config(Run, EVERYWHERE))] == [
        point.values for point in points(Run(**EVERYWHERE))
    ]


@given(st.lists(st.sampled_from(["constant", "swept", "w", "2 * w", "u", "u - 1"]), min_size=1, max_size=7), st.data())
def test_axes_stand_in_the_order_of_the_fields_and_coupled_fields_move_together(kinds: list[str], data: st.DataObject) -> None:
    size = st.integers(1, 3)
    variables = {name: SweepVar(*range(10, 10 + data.draw(size)), name=name) for name in "uw"}
    axes: dict[str, tuple[Any, ...]] = {}
    fields: dict[str, Any] = {}
    for index, kind in enumerate(kinds):
        if kind == "swept":
            fields[f"f{index}"] = Swept(*range(data.draw(size)))
            axes[f"f{index}"] = fields[f"f{index}"].values
        elif kind != "constant":
            fields[f"f{index}"] = SweepExpression(kind, variables)
            name = "w" if "w" in kind else "u"
            axes[name] = variables[name].values
        else:
            fields[f"f{index}"] = 5
    expected = []
    for choice in itertools.product(*axes.values()):
        at = dict(zip(axes, choice, strict=True))
        by_kind = {"constant": 5, "w": at.get("w"), "2 * w": 2 * at.get("w", 0), "u": at.get("u"), "u - 1": at.get("u", 0) - 1}
        expected.append({f"f{i}": at[f"f{i}"] if kind == "swept" else by_kind[kind] for i, kind in enumerate(kinds)})
    assert [point.config.weights for point in points(Run(weights=fields))] == expected


def test_coupled_variables_move_together_across_sections() -> None:
    config = TrainConfig(
        batch_size=512 * W, steps=4000 // W, schedule={"warmup": 100 * W}, coefficients={"l1": 0.1 * W}, lr=Swept(1e-3, 1e-4)
    )
    found = [
        (p.batch_size, p.steps, p.schedule.warmup, p.coefficients["l1"], p.lr) for p in (point.config for point in points(config))
    ]
    assert found == [(512 * w, 4000 // w, 100 * w, 0.1 * w, lr) for w in (1, 2, 4) for lr in (1e-3, 1e-4)]


def test_a_table_couples_what_no_arithmetic_does() -> None:
    size = SweepVar("small", "large", name="size")
    config = Run(steps=Val({"small": 10, "large": 1000})[size], ramp={"shape": Val({"small": "linear", "large": "cosine"})[size]})
    assert [(p.config.steps, p.config.ramp.shape) for p in points(config)] == [(10, "linear"), (1000, "cosine")]


def test_indexing_is_that_of_a_list() -> None:
    found, listed = points(Run(lr=Swept(0.1, 0.2), steps=Swept(1, 2, 3))), list(itertools.product((0.1, 0.2), (1, 2, 3)))
    for index in range(-6, 6):
        assert tuple(found[index].values.values()) == listed[index]
    assert [tuple(point.values.values()) for point in found[1:6:2]] == listed[1:6:2]
    assert [tuple(point.values.values()) for point in found[::-1]] == listed[::-1]
    assert found[-1].index == 5
    for index in (6, -7):
        with pytest.raises(IndexError):
            found[index]


def test_points_are_the_same_each_time_and_of_a_huge_sweep_only_those_looked_at_are_made() -> None:
    config = Run(widths=[Swept(*range(100)) for _ in range(8)])
    assert len(points(config)) == 100**8
    assert points(config)[12_34_56_78_90_12_34_56].config.widths == [12, 34, 56, 78, 90, 12, 34, 56]
    assert points(config)[77] == points(config)[77]


@pytest.mark.parametrize(
    ("fields", "field", "index"),
    [
        ({"steps": Swept(1, "many")}, "steps", 1),
        ({"lr": Swept(0.1, -1)}, "lr", 1),
        ({"ramp": {"length": Swept(1, 2, 0)}}, "ramp.length", 2),
        ({"ramp": Ramp(shape=Swept("linear", "round"))}, "ramp.shape", 1),
        ({"weights": {"a": Swept(1, "b")}}, "weights.a", 1),
        ({"widths": [1, Swept(1, 2.5)]}, "widths.1", 1),
        ({"ramps": [{"length": Swept(1, 0)}]}, "ramps.0.length", 1),
        ({"ramps": [Ramp(length=Swept(1, 0))]}, "ramps.0.length", 1),
        ({"named": {"x": Ramp(length=Swept(1, 0))}}, "named.x.length", 1),
        ({"ramp": Swept({"length": 1}, {"lenght": 1})}, "ramp.lenght", 1),
        ({"steps": Swept(5, 6), "ramp": {"length": 4 - W}}, "ramp.length", 2),
        ({"ramp": {"length": 6 // (4 - W)}}, "ramp.length", 2),
        ({"steps": 6 // (4 - W)}, "steps", 2),
    ],
)
def test_a_wrong_value_names_its_field_and_its_point(fields: dict[str, Any], field: str, index: int) -> None:
    found = points(Run(**fields))
    assert found[index - 1].config
    with pytest.raises(InputError, match=rf"^point {index} of the sweep: {field}: "):
        found[index]


def test_a_first_value_that_is_wrong_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"^train\.ramp\.length: .*greater than 0.*found 0"):
        parse_config(Run, {"ramp": {"length": Swept(0, 1)}}, "train")


def test_two_variables_of_one_name_in_two_fields_are_refused() -> None:
    config = Run(steps=W, ramp={"length": SweepVar(1, 2, name="w")})
    with pytest.raises(InputError, match="w: two variables have one name"):
        points(config)


def test_a_sample_is_of_distinct_points_in_order_and_decided_by_the_seed() -> None:
    config = Run(steps=Swept(*range(1, 31)), lr=Swept(*(0.1 * n for n in range(1, 31))))
    drawn = sample(config, 50, seed=3)
    indices = [point.index for point in drawn]
    assert len(set(indices)) == 50
    assert indices == sorted(indices)
    assert drawn == [points(config)[index] for index in indices]
    assert drawn == sample(config, 50, seed=3)
    assert indices != [point.index for point in sample(config, 50, seed=4)]
    assert sample(config, 900) == list(points(config))


def test_more_points_than_there_are_can_not_be_drawn() -> None:
    with pytest.raises(InputError, match=r"^count: there are not so many points \(found 3, expected at most 2\)$"):
        sample(Run(steps=Swept(1, 2)), 3)


@pytest.mark.parametrize(
    "config",
    [
        Run(**EVERYWHERE),
        Run(steps=4 * W, ramp=Ramp(length=W), weights={"a": Val({1: 0.5, 2: 1.5, 4: 2.5})[W]}),
        Run(ramp=Swept(Ramp(length=1), Ramp(length=2, shape="cosine"))),
        Run(widths=Swept([1], [1, 2]), named=Swept({}, {"x": Ramp(length=3)})),
        Run(steps=3),
        Run(),
        TrainConfig(schedule=ScheduleConfig(warmup=Swept(1, 2)), optimizer=OptimizerConfig(betas=(Swept(0.9, 0.8), 0.99))),
    ],
)
def test_a_config_comes_back_from_json(config: SweepableConfig) -> None:
    again = load(type(config), json.loads(json.dumps(dump(config))))
    assert [point.config for point in points(again)] == [point.config for point in points(config)]
    assert len(points(again)) == len(points(config))


def test_what_is_dumped_is_what_was_set() -> None:
    assert dump(Run(steps=3, ramp={"length": Swept(1, 2)})) == {"steps": 3, "ramp": {"length": {"$swept": [1, 2]}}}


def test_a_wrong_key_in_a_dump_is_named() -> None:
    with pytest.raises(InputError, match=r"ramp\.lenght: unknown key; did you mean 'ramp\.length'"):
        load(Run, {"ramp": {"lenght": {"$swept": [1, 2]}}})


def test_a_config_is_concrete_if_nothing_in_it_is_swept() -> None:
    assert is_concrete(Run())
    assert is_concrete(Run(ramps=[Ramp()], weights={"a": 1.0}))
    for name, value in EVERYWHERE.items():
        assert not is_concrete(Run(**{name: value})), name
    assert all(is_concrete(point.config) for point in points(Run(**EVERYWHERE))[:8])


def test_a_concrete_config_is_its_only_point() -> None:
    (point,) = points(Run(steps=3))
    assert (point.index, point.values, point.config) == (0, {}, Run(steps=3))


def test_the_points_of_a_config_whose_class_is_swept_by_default_are_concrete() -> None:
    class Deep(SweepableConfig):
        ramp: Ramp = Ramp(length=Swept(1, 2))
        steps: int = 3

    assert [point.config.ramp.length for point in points(Deep(steps=4))] == [1, 2]


def test_a_section_that_is_swept_has_no_axes_of_its_own() -> None:
    with pytest.raises(InputError, match="ramp"):
        list(points(Run(ramp=Swept(Ramp(length=Swept(1, 2)), Ramp(length=5)))))


def leaves(cls: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in cls.model_fields.items():
        members = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else [field.annotation]
        members = [get_args(member)[0] if hasattr(member, "__metadata__") else member for member in members]
        nested = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        if nested:
            yield from leaves(nested[0], (*path, name))
        elif {int, float} & set(members):
            yield (*path, name)


NUMBERS = [path for name, field in Params.model_fields.items() if name != "sweep" for path in leaves(field.annotation, (name,))]  # type: ignore[arg-type]
CANDIDATES = (0.5, 0.25, 1, 2, 3, 8, 1000)
SECTIONS: dict[str, Any] = {name: {} for name in Params.model_fields} | {
    "subject": {"model": "a"},
    "activations": {"hook_points": ["a"]},
    "run": {"remote": {"git": "a", "dvc": "b"}},
}


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data: dict[str, Any] = SECTIONS
    made = dict(data)
    inner = made
    for part in path[:-1]:
        inner[part] = dict(inner.get(part) or {})
        inner = inner[part]
    inner[path[-1]] = value
    return made


def accepted(path: tuple[str, ...]) -> Iterator[tuple[Any, Params]]:
    for value in CANDIDATES:
        try:
            yield value, parse_config(Params, at(path, value))
        except InputError:
            continue


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_of_every_section_can_be_swept(path: tuple[str, ...]) -> None:
    (one, first), (other, second), *_ = accepted(path)
    swept = parse_config(Params, at(path, Swept(one, other)))
    assert [point.config for point in points(swept)] == [first, second]
    assert [dict(point.values) for point in points(swept)] == [{".".join(path): one}, {".".join(path): other}]
