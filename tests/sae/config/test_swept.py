"""Expressions of variables are Python's arithmetic, and text, JSON and YAML keep them; what is no arithmetic is refused."""

from __future__ import annotations

import io
import json
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sae.config import InputError
from sae.config.swept import SweepExpression, SweepVar, Swept, Val, first_of, from_plain, is_swept, to_plain

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
W, U = SweepVar(1, 2, 4, name="w"), SweepVar("small", "large", name="u")

numbers = st.integers(-20, 20) | st.floats(-20, 20)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé ,:'\"#{[-\n0~")
)
axis_values = st.lists(scalars, min_size=1, max_size=4, unique_by=lambda value: (type(value), value))


def grown(trees: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    others = trees | numbers
    symbols = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    powers = st.tuples(st.just("**"), trees, st.integers(-3, 3)) | st.tuples(st.just("**"), st.integers(-3, 3), st.just("v"))
    return st.tuples(symbols, trees, others) | st.tuples(symbols, others, trees) | powers


trees = st.recursive(st.sampled_from(["v", "x"]), grown, max_leaves=8)


def built(tree: Any, variables: dict[str, Any]) -> Any:
    if isinstance(tree, tuple):
        symbol, left, right = tree
        return OPERATORS[symbol](built(left, variables), built(right, variables))
    return variables.get(tree, tree)


def outcome(compute: Callable[[], Any]) -> str:
    try:
        return repr(compute())
    except (ArithmeticError, InputError):
        return "no value"


@given(trees, st.integers(-5, 5), numbers)
def test_an_expression_has_the_value_that_python_computes(tree: Any, v: int, x: float) -> None:
    expression = built(tree, {"v": SweepVar(v, name="v"), "x": SweepVar(x, name="x")})
    values = {"v": v, "x": x}
    assert outcome(lambda: expression.evaluate(values)) == outcome(lambda: built(tree, values))


@given(trees)
def test_the_text_of_an_expression_makes_it_again(tree: Any) -> None:
    expression = built(tree, {"v": SweepVar(-1, 2, name="v"), "x": SweepVar(0.5, name="x")})
    again = SweepExpression(expression.text, expression.variables)
    assert again.text == expression.text
    assert isinstance(expression, SweepVar) or again == expression
    assert outcome(lambda: first_of(again)) == outcome(lambda: first_of(expression))


@pytest.mark.parametrize("symbol", OPERATORS)
def test_an_operator_takes_the_variable_on_either_side(symbol: str) -> None:
    function = OPERATORS[symbol]
    assert function(W, 3).evaluate({"w": 4}) == function(4, 3)
    assert function(3, W).evaluate({"w": 4}) == function(3, 4)


def test_python_decides_what_binds_first() -> None:
    assert SweepExpression("2 + w * -3 ** 2 // 4 % 5", {"w": W}).evaluate({"w": 4}) == 2 + 4 * -(3**2) // 4 % 5


def test_a_variable_looks_up_a_constant_table() -> None:
    table = {"small": [1, {"rate": 0.5}], "large": [2, {"rate": 0.25}]}
    assert [Val(table)[U][1]["rate"].evaluate({"u": size}) for size in table] == [0.5, 0.25]
    assert (Val([10, 20, 30])[W // 2] + 1).evaluate({"w": 4}) == 31
    assert Val("abc")[-1].evaluate({}) == "c"


def test_a_value_of_a_variable_is_looked_into() -> None:
    shape = SweepVar({"wide": 8}, {"wide": 16}, name="shape")
    assert (shape["wide"] * 2).evaluate({"shape": {"wide": 16}}) == 32


def test_an_expression_is_no_list_although_it_has_an_index() -> None:
    with pytest.raises(TypeError):
        list(W)  # type: ignore[call-overload]


NO_ARITHMETIC = """abs(w)|w.real|__import__('os')|lambda: w|w if w else 1|w and 1|w == 1|not w|~w|w @ w|w << 2|w[0:1]
[i for i in w]|f'{w}'|{w, 1}|[*w]|(w := 1)||w +|w; w|w = 1|w\0|import os""".replace("\n", "|").split("|")


@pytest.mark.parametrize("text", NO_ARITHMETIC)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"can't stand in an expression|this is no expression") as caught:
        SweepExpression(text, {"w": W})
    assert str(caught.value).startswith(text)


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"2 \* wdth: no such variable \(found wdth, expected u, width\); did you mean 'width'"):
        SweepExpression("2 * wdth", {"width": W, "u": U})


@pytest.mark.parametrize(
    "text",
    ["w ** 1025", "w ** -1025", "10 ** 10 ** 10", "2.0 ** (w * 10 ** 9)", "((10 ** 1000) ** 1000) ** 1000", "9 ** 1024 ** 2"],
)
def test_a_huge_power_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(InputError, match="this has no value"):
        SweepExpression(text, {"w": W}).evaluate({"w": 2})


def test_powers_up_to_the_limit_are_exact() -> None:
    assert SweepExpression("w ** 1024", {"w": W}).evaluate({"w": 2}) == 1 << 1024


@pytest.mark.parametrize("text", ["1 / (w - 1)", "1 // (w - 1)", "w % 0"])
def test_a_division_by_zero_is_one_line_with_the_expression_and_the_values(text: str) -> None:
    with pytest.raises(InputError) as caught:
        SweepExpression(text, {"w": W}).evaluate({"w": 1})
    message = str(caught.value)
    assert message.startswith(f"{text}: this has no value: ")
    assert "zero" in message
    assert message.endswith("(found {'w': 1})")
    assert "\n" not in message


@pytest.mark.parametrize("expression", [W[0], Val({"a": 1})[U], Val([1])[W], U + 1, W - "a", U**2, 0 ** (0 - W)])
def test_an_expression_without_a_value_is_an_input_error(expression: SweepExpression) -> None:
    with pytest.raises(InputError, match="this has no value"):
        expression.evaluate({"w": 4, "u": "small"})


def test_variables_of_one_name_are_the_same_or_refused() -> None:
    assert (W + SweepVar(1, 2, 4, name="w")).variables == {"w": W}
    for other in (SweepVar(1, 2, name="w"), SweepVar(1, 2, 4.0, name="w"), SweepVar(4, 2, 1, name="w")):
        with pytest.raises(InputError, match="w: two variables have one name"):
            W * other


@pytest.mark.parametrize("name", ["", "two words", "1st", "a-b", "for", "None", "True"])
def test_the_name_of_a_variable_is_one_that_an_expression_can_use(name: str) -> None:
    with pytest.raises(InputError):
        SweepVar(1, 2, name=name)


@pytest.mark.parametrize("make", [Swept, lambda *values: SweepVar(*values, name="w")])
def test_an_axis_has_values_and_none_twice(make: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="at least one value"):
        make()
    with pytest.raises(InputError, match=r"twice on its axis \(found 0.5"):
        make(1, 0.5, 2, 0.5)
    assert make(1, 1.0, True).values == (1, 1.0, True)


def test_equality_tells_types_apart() -> None:
    assert Swept(1, 2) == Swept(1, 2)
    assert Swept(1, 2) != Swept(1.0, 2)
    assert Swept(1, 0) != Swept(True, False)
    assert len({2 * W, SweepExpression("2 * w", {"w": W}), W * 2}) == 2


def test_the_text_of_an_axis_is_the_python_that_makes_it() -> None:
    for axis in (Swept(1, 2.5, "a", None), SweepVar([1], {"a": 2}, name="w")):
        assert eval(repr(axis)) == axis


@given(axis_values, axis_values, st.sampled_from(list(OPERATORS)))
def test_json_and_yaml_keep_everything(one: list[Any], other: list[Any], symbol: str) -> None:
    variable, second = SweepVar(*one, name="w"), SweepVar(*other, name="v")
    data = {
        "a": Swept(*other),
        "b": {"c": [variable, 3, [Swept(*one)]]},
        "d": OPERATORS[symbol](2, variable),
        "e": second[variable],
    }
    plain = to_plain(data)
    assert from_plain(json.loads(json.dumps(plain))) == data
    text = io.StringIO()
    YAML().dump(plain, text)
    assert from_plain(YAML(typ="safe", pure=True).load(text.getvalue())) == data


def test_a_bare_variable_keeps_its_name_and_values_in_json() -> None:
    kept = from_plain(json.loads(json.dumps(to_plain({"a": W, "b": 512 * W}))))
    assert isinstance(kept["a"], SweepVar)
    assert (kept["a"].name, kept["a"].values) == ("w", (1, 2, 4))
    assert kept["b"].variables == {"w": kept["a"]}


def test_what_is_read_from_yaml_with_its_comments_counts_as_the_same_values() -> None:
    text = "a: {$swept: [0.10, 1_000, 0x10]} # tenth\nb: {$var: w, values: [1, 2, 4]}\nc: {$expr: 2 * w, vars: {w: [1, 2, 4]}}\n"
    kept = from_plain(YAML().load(text))
    assert kept["a"].values == (0.1, 1000, 16)
    assert kept["c"].variables == {"w": W}


def test_swept_is_found_at_any_depth_and_the_first_values_are_taken() -> None:
    data = {"a": [1, {"b": Swept(5, 6)}], "c": (W, 2 * W), "d": "text"}
    assert is_swept(data)
    assert first_of(data) == {"a": [1, {"b": 5}], "c": [1, 2], "d": "text"}
    assert not is_swept(first_of(data))
