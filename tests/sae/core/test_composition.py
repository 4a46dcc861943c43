"""Seq, Parallel, Lambda, ReuseForward and useif compute what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sae.config import SaeError
from sae.core import Cache, Collection, Lambda, Module, Parallel, ReuseForward, Seq, useif


class Times(Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.runs, self.paths = factor, 0, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        self.runs += 1
        self.paths.append(cache.path)
        return self.factor * x


X = torch.tensor([1.0, -2.0, 3.0])


def test_seq_hands_each_output_to_the_next() -> None:
    shift = Lambda(lambda x: x + 1)
    assert torch.equal(Seq(Times(2), shift)(X), 2 * X + 1)
    assert torch.equal(Seq(shift, Times(2))(X), 2 * (X + 1))


def test_empty_seq_is_the_identity() -> None:
    assert Seq()(X) is X


def test_seq_takes_torchs_own_modules() -> None:
    assert torch.equal(Seq(Times(-1), nn.ReLU())(X), torch.tensor([0.0, 2.0, 0.0]))


def test_seq_refuses_a_parameter_which_takes_no_input() -> None:
    with pytest.raises(SaeError, match=r"bias.*parameter"):
        Seq(lin=Times(1), bias=nn.Parameter(X))


def test_parts_run_in_scopes_of_their_names() -> None:
    named, placed = Times(1), Times(1)
    Seq(placed, lin=Seq(inner=named))(X, cache=Cache()["model"])
    assert placed.paths == [("model", "item0")]
    assert named.paths == [("model", "lin", "inner")]


def test_collection_keeps_order_names_and_positions() -> None:
    a, b, c = Times(1), Times(2), Times(3)
    collection = Collection(a, second=b, third=c)
    assert [name for name, _ in collection.parts()] == ["item0", "second", "third"]
    assert (collection[0], collection["second"], collection[-1], len(collection)) == (a, b, c, 3)


@pytest.mark.parametrize("name", ["double", "type", "training", "parts"])
def test_collection_refuses_a_name_that_would_hide_the_part(name: str) -> None:
    with pytest.raises(SaeError, match=f"{name}: a part can't go by a name"):
        Seq(**{name: Times(1)})


def test_collection_refuses_what_is_neither_module_nor_parameter() -> None:
    with pytest.raises(SaeError, match=r"wrong.*float"):
        Collection(wrong=3.0)  # type: ignore[arg-type]


def test_parts_of_a_collection_are_trained() -> None:
    weight = nn.Parameter(torch.ones(3))
    assert [p is weight for p in Parallel(left=Times(1), right=weight).parameters()] == [True]


def test_parallel_reduces_all_outputs_at_once_in_order() -> None:
    joined = Parallel(a=Times(2), b=Times(3), c=Times(5)).reduce(lambda a, b, c: a - b * c)
    assert torch.equal(joined(X), 2 * X - 15 * X * X)


def test_parallel_folds_pairs_from_the_left() -> None:
    joined = Parallel(Times(2), Times(3), Times(5)).reduce(lambda a, b: a - b, binary=True)
    assert torch.equal(joined(X), 2 * X - 3 * X - 5 * X)


def test_parameter_in_a_parallel_stands_for_its_value_and_gets_its_gradient() -> None:
    bias = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    joined = Parallel(left=Times(2), right=bias).reduce(torch.mul)
    joined(X).sum().backward()
    assert bias.grad is not None
    assert torch.equal(bias.grad, 2 * X)


def test_parallel_without_a_reduction_is_an_error() -> None:
    with pytest.raises(SaeError, match="reduc"):
        Parallel(Times(1))(X)


def test_lambda_applies_to_input_module_or_parameter() -> None:
    parameter = nn.Parameter(torch.tensor([0.0, 1.0]))
    assert torch.equal(Lambda(torch.exp)(X), X.exp())
    assert torch.equal(Lambda(torch.exp, Times(2))(X), (2 * X).exp())
    assert torch.equal(Lambda(func=torch.exp, module=parameter)(X), parameter.exp())
    assert next(Lambda(torch.exp, parameter).parameters()) is parameter


def test_reuse_forward_runs_once_a_step_wherever_it_stands() -> None:
    inner = Times(2)
    model = Parallel(a=ReuseForward(inner), b=Seq(ReuseForward(inner), Times(10)), c=ReuseForward(ReuseForward(inner))).reduce(
        lambda a, b, c: a + b + c
    )
    assert torch.equal(model(X), 24 * X)
    assert inner.runs == 1
    model(X)
    assert inner.runs == 2  # the next step has a record of its own


def test_reuse_forward_runs_again_for_another_input() -> None:
    inner = Times(2)
    model = Parallel(a=ReuseForward(inner), b=Seq(Times(3), ReuseForward(inner))).reduce(torch.add)
    assert torch.equal(model(X), 8 * X)
    assert inner.runs == 2


def test_reuse_forward_shows_the_attributes_of_what_it_holds() -> None:
    assert ReuseForward(Times(7)).factor == 7
    with pytest.raises(AttributeError, match="nothing"):
        _ = ReuseForward(Times(7)).nothing


def test_useif_gives_the_named_things_or_nothing() -> None:
    assert useif(True, a=1, b=2) == {"a": 1, "b": 2}
    assert useif(False, a=1, b=2) == {}
