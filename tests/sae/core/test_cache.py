"""The record of a step: scopes, write-once values, hooks that patch, and modules that run once for each input object."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.config import SaeError
from sae.core import Cache, Lambda, Module, run


class Counting(Module):
    """Doubles its input, and counts how often it ran and in which scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[tuple[str, ...]] = []

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        self.paths.append(cache.path)
        return 2 * x


def test_written_value_is_read_back_from_its_scope_only() -> None:
    cache = Cache()
    cache["encoder"].write("preacts", 3)
    assert cache["encoder"].read("preacts") == 3
    assert "preacts" in cache["encoder"]
    assert "preacts" not in cache
    assert "preacts" not in cache["decoder"]


def test_scopes_nest_and_carry_the_step() -> None:
    cache = Cache(step=7)
    child = cache["a"]["b"]
    assert child.path == ("a", "b")
    assert child.step == 7
    child.write("x", 1)
    assert cache["a"]["b"].read("x") == 1


def test_values_are_listed_by_path_relative_to_the_scope() -> None:
    cache = Cache()
    cache.write("loss", 0)
    cache["model"].write("l0", 1)
    cache["model"]["encoder"].write("preacts", 2)
    cache["modelled"].write("l0", 3)  # a name that only begins alike
    assert cache.values() == {"loss": 0, "model/l0": 1, "model/encoder/preacts": 2, "modelled/l0": 3}
    assert cache["model"].values() == {"l0": 1, "encoder/preacts": 2}


def test_a_name_is_written_once_in_a_scope() -> None:
    cache = Cache()
    cache["model"].write("l0", 1)
    cache["aux"].write("l0", 2)
    with pytest.raises(SaeError, match="model/l0"):
        cache["model"].write("l0", 3)
    assert cache["model"].read("l0") == 1


def test_reading_what_was_not_written_says_what_was() -> None:
    cache = Cache()
    cache["model"].write("l0", 1)
    with pytest.raises(SaeError, match=r"model/l1.*l0"):
        cache["model"].read("l1")


def test_hook_sees_every_write_of_its_name_and_may_only_look() -> None:
    cache, seen = Cache(), []

    def look(scope: Cache, value: Any) -> Any:
        seen.append((scope.path, value))
        return value

    cache.on_write("codes", look)
    assert cache["a"].write("codes", 1) == 1
    cache["b"].write("codes", 2)
    cache["b"].write("other", 3)
    assert seen == [(("a",), 1), (("b",), 2)]


def test_hook_on_a_full_path_leaves_other_scopes_alone() -> None:
    cache = Cache()
    cache.on_write("a/codes", lambda scope, value: 10 * value)
    assert cache["a"].write("codes", 1) == 10
    assert cache["b"].write("codes", 1) == 1


def test_hooks_patch_the_value_that_is_kept_and_flows_on_in_turn() -> None:
    cache = Cache()
    cache.on_write("x", lambda scope, value: value + 1)
    cache["deep"].on_write("x", lambda scope, value: value * 10)
    assert cache["deep"].write("x", 1) == 20
    assert cache["deep"].read("x") == 20


def test_run_once_runs_once_for_each_input_object_not_for_each_value() -> None:
    cache, module = Cache(), Counting()
    x, same_value = torch.ones(2), torch.ones(2)
    first = cache.run_once(module, x)
    assert cache.run_once(module, x) is first
    assert len(module.paths) == 1
    assert cache.run_once(module, same_value) is not first
    assert len(module.paths) == 2


def test_run_once_reaches_over_all_scopes_of_a_step_and_ends_with_it() -> None:
    cache, module, x = Cache(), Counting(), torch.ones(2)
    first = cache["a"].run_once(module, x)
    assert cache["b"]["c"].run_once(module, x) is first
    assert Cache().run_once(module, x) is not first
    assert len(module.paths) == 2


def test_run_once_tells_modules_apart() -> None:
    cache, x = Cache(), torch.ones(2)
    one, other = Counting(), Counting()
    cache.run_once(one, x)
    cache.run_once(other, x)
    assert (len(one.paths), len(other.paths)) == (1, 1)


def test_freed_inputs_are_never_mistaken_for_new_ones() -> None:
    # Python gives a new object the id of one that was freed; a record by id alone would then return a stale output.
    cache, module = Cache(), Counting()
    for value in range(200):
        x = torch.full((1,), float(value))
        assert float(cache.run_once(module, x)) == 2.0 * value
        del x
    assert len(module.paths) == 200


def test_run_once_keeps_the_graph() -> None:
    cache, x = Cache(), torch.ones(2, requires_grad=True)
    module = Counting()
    (cache.run_once(module, x).sum() + cache.run_once(module, x).sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2,), 4.0))


def test_scope_of_a_module_is_where_it_ran() -> None:
    cache, module, x = Cache(), Counting(), torch.ones(2)
    cache.run_once(module, x, "model")
    cache["elsewhere"].run_once(module, x)
    assert cache.scope_of(module).path == ("model",) == module.paths[0]


def test_scope_of_a_module_that_did_not_run_is_an_error() -> None:
    with pytest.raises(SaeError, match="Counting"):
        Cache().scope_of(Counting())


def test_modules_make_their_own_record_when_called_without_one() -> None:
    module = Counting()
    assert torch.equal(module(torch.ones(2)), torch.full((2,), 2.0))
    assert module.paths == [()]


def test_run_calls_torchs_modules_plainly_and_lets_a_parameter_stand_for_its_value() -> None:
    x, parameter = torch.tensor([-1.0, 2.0]), nn.Parameter(torch.tensor([5.0]))
    assert torch.equal(run(nn.ReLU(), x, Cache()), torch.tensor([0.0, 2.0]))
    assert run(parameter, x, Cache()) is parameter
    module = Counting()
    run(module, x, Cache()["place"])
    assert module.paths == [("place",)]


@pytest.mark.parametrize(("step", "steps", "progress"), [(None, None, None), (3, None, None), (0, 10, 0.0), (5, 20, 0.25)])
def test_progress_is_the_share_of_the_run_that_is_done(step: int | None, steps: int | None, progress: float | None) -> None:
    cache = Cache(step, steps)
    assert cache.progress == progress
    assert cache["model"]["encoder"].progress == progress
    assert cache["model"].step == step


def test_a_record_goes_when_nobody_holds_it_without_waiting_for_a_collection() -> None:
    """A cycle would keep a step's whole graph in memory until Python looks for cycles."""
    gc.collect()
    gc.disable()
    try:
        cache, x = Cache(0, 1), torch.ones(2, requires_grad=True)
        output = cache["model"].run_once(Lambda(lambda t: t * 2), x)
        cache["model"].write("output", output)
        gone = weakref.ref(output)
        del cache, output
        assert gone() is None
    finally:
        gc.enable()
