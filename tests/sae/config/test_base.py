"""Configs refuse what they do not know, by name, and never change."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from sae.config import InputError, SweepableConfig, parse_config


class Schedule(SweepableConfig):
    warmup: int = 10
    kind: Literal["linear", "geometric"] = "linear"
    length: int | float = 1


class Run(SweepableConfig):
    name: str
    lr: float = Field(default=1.0, gt=0)
    schedule: Schedule = Schedule()
    hooks: list[str] = Field(default=[])


def refusal(data: object, where: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        parse_config(Run, data, where)  # type: ignore[arg-type]
    return str(caught.value)


def test_values_and_defaults_come_through() -> None:
    run = parse_config(Run, {"name": "a", "schedule": {"warmup": 3}})
    assert run == Run(name="a", lr=1.0, schedule=Schedule(warmup=3, kind="linear"), hooks=[])


def test_unknown_key_names_the_nearest() -> None:
    assert refusal({"name": "a", "lrr": 1}) == "train.lrr: unknown key; did you mean 'train.lr'?"


def test_unknown_key_in_a_section_below_names_the_nearest_there() -> None:
    message = refusal({"name": "a", "schedule": {"warmpu": 3}})
    assert message == "train.schedule.warmpu: unknown key; did you mean 'train.schedule.warmup'?"


def test_unknown_key_without_a_near_one_lists_those_that_there_are() -> None:
    message = refusal({"name": "a", "schedule": {"zzz": 3}})
    assert message == "train.schedule.zzz: unknown key (expected one of kind, length, warmup)"


def test_wrong_type_names_field_and_value() -> None:
    message = refusal({"name": "a", "schedule": {"warmup": "soon"}})
    assert message.startswith("train.schedule.warmup: ")
    assert "integer" in message
    assert "found 'soon'" in message


def test_every_wrong_field_has_its_line() -> None:
    lines = refusal({"name": 3, "lr": -1, "hooks": [1]}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["train.name", "train.lr", "train.hooks.0"]


def test_a_field_of_several_types_is_named_once_and_without_the_types() -> None:
    message = refusal({"name": "a", "schedule": {"length": "long"}})
    assert message.startswith("train.schedule.length: ")
    assert "found 'long'" in message
    assert len(message.splitlines()) == 1


def test_wrong_choice_names_the_nearest() -> None:
    assert refusal({"name": "a", "schedule": {"kind": "geometrc"}}).endswith("did you mean 'geometric'?")


def test_missing_key_is_named() -> None:
    assert refusal({}) == "train.name: this key is needed"


def test_missing_section_is_an_empty_one() -> None:
    assert parse_config(Schedule, None) == Schedule()
    assert refusal(None) == "train.name: this key is needed"


@pytest.mark.parametrize("data", [3, "text", ["a"]])
def test_section_that_is_no_mapping_is_refused(data: object) -> None:
    message = refusal(data)
    assert message.startswith("train: this is a section")
    assert "found" in message


def test_without_a_place_fields_are_named_from_the_top() -> None:
    assert refusal({}, where="") == "name: this key is needed"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    assert refusal({"name": "a", "lr": value}).startswith("train.lr: ")


def test_configs_are_frozen() -> None:
    config = Schedule()
    with pytest.raises(ValidationError, match="frozen"):
        config.warmup = 11
    assert config.warmup == 10


def test_defaults_are_checked_like_values() -> None:
    class Wrong(SweepableConfig):
        count: int = "many"  # type: ignore[assignment]

    with pytest.raises(InputError, match="count"):
        parse_config(Wrong, {})
