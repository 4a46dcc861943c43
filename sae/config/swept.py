"""What a field of a config may hold in place of a value: several values, a named variable, or an expression of variables.

>>> w = SweepVar(1, 2, 4, name="w")
>>> 512 * w
SweepExpression('512 * w')
>>> (512 * w).evaluate({"w": 4})
2048
"""

from __future__ import annotations

import ast
import keyword
import operator
from collections.abc import Callable, Mapping
from typing import Any

from sae.config.errors import InputError, nearest_name

MAX_POWER = 1024  # of an exponent, so that a slip of the pen does not keep a machine busy for a day
MAX_BITS = 4096  # of a whole number on the way, for the same: powers of powers grow too
SWEPT, VAR, EXPR = "$swept", "$var", "$expr"  # keys of the plain forms

_BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}


class Swept:
    """Several values of one field: an axis of its own.

    Args:
        values: at least one; each appears once.

    Raises:
        InputError: there are none, or one appears twice.

    >>> Swept(16, 32)
    Swept(16, 32)
    """

    def __init__(self, *values: Any) -> None:
        self.values = _distinct(values, "Swept")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Swept) and _same(self.values, other.values)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"Swept({', '.join(map(repr, self.values))})"


class SweepExpression:
    """Arithmetic on variables: `+ - * / // % **` and indexing. Fields that share a variable move together.

    Args:
        text: of the expression, in Python's notation; numbers, strings, lists and dicts may stand in it.
        variables: by name; those that the text names.

    Raises:
        InputError: the text is no such expression, or names an unknown variable.
    """

    def __init__(self, text: str, variables: Mapping[str, SweepVar]) -> None:
        tree = _parsed(text)
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for name in sorted(named - set(variables)):
            known = ", ".join(sorted(variables)) or "none is declared"
            raise InputError("no such variable", where=text, found=name, expected=known, nearest=nearest_name(name, variables))
        self.text = ast.unparse(tree)
        self.variables = {name: variables[name] for name in sorted(named)}
        self._tree = tree

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Its value, where the variables have these.

        Raises:
            InputError: it has none, as for a division by zero.
        """
        try:
            return _evaluate(self._tree, values)
        except (ArithmeticError, TypeError, LookupError, ValueError) as error:
            raise InputError(f"this has no value: {error}", where=self.text, found=dict(values)) from None

    def __getitem__(self, key: Any) -> SweepExpression:
        mine = self.text if isinstance(self._tree, ast.Name | ast.Dict | ast.List | ast.Constant) else f"({self.text})"
        theirs = key if isinstance(key, SweepExpression) else Val(key)
        return SweepExpression(f"{mine}[{theirs.text}]", _joined(self, theirs))

    __iter__ = None  # that it has an index does not make it a list

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SweepExpression) or isinstance(other, SweepVar):
            return False
        return self.text == other.text and self.variables == other.variables

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"SweepExpression({self.text!r})"


class SweepVar(SweepExpression):
    """A named axis that several fields share.

    Args:
        values: at least one; each appears once.
        name: a Python name.

    Raises:
        InputError: there are no values, one appears twice, or the name is none.
    """

    def __init__(self, *values: Any, name: str) -> None:
        if not name.isidentifier() or keyword.iskeyword(name):  # None and True would be read as values
            raise InputError("the name of a variable is a word", where="SweepVar", found=name)
        self.name, self.values = name, _distinct(values, name)
        super().__init__(name, {name: self})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SweepVar) and self.name == other.name and _same(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"SweepVar({', '.join(map(repr, self.values))}, name={self.name!r})"


class Val(SweepExpression):
    """A constant that can stand in an expression, such as a table that a variable looks up.

    >>> Val({"small": 64, "large": 512})[SweepVar("small", "large", name="size")].evaluate({"size": "large"})
    512
    """

    def __init__(self, value: Any) -> None:
        super().__init__(repr(value), {})

    def __repr__(self) -> str:
        return f"Val({self.text})"


def is_swept(value: object) -> bool:
    """Whether a value, or anything in a dict or list, is none yet."""
    if isinstance(value, Swept | SweepExpression):
        return True
    if isinstance(value, Mapping):
        return any(map(is_swept, value.values()))
    return isinstance(value, list | tuple) and any(map(is_swept, value))


def first_of(value: Any) -> Any:
    """The same with the first value of every axis."""
    if isinstance(value, Swept):
        return value.values[0]
    if isinstance(value, SweepExpression):
        return value.evaluate({name: variable.values[0] for name, variable in value.variables.items()})
    if isinstance(value, Mapping):
        return {key: first_of(item) for key, item in value.items()}
    return [first_of(item) for item in value] if isinstance(value, list | tuple) and is_swept(value) else value


def to_plain(value: Any) -> Any:
    """The same for JSON or YAML: `{$swept: […]}`, `{$var: w, values: […]}`, `{$expr: 512 * w, vars: {w: […]}}`."""
    if isinstance(value, Swept):
        return {SWEPT: list(value.values)}
    if isinstance(value, SweepVar):
        return {VAR: value.name, "values": list(value.values)}
    if isinstance(value, SweepExpression):
        return {EXPR: value.text, "vars": {name: list(variable.values) for name, variable in value.variables.items()}}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_plain(value: Any) -> Any:
    """What `to_plain` made such a form of."""
    if isinstance(value, Mapping):
        if SWEPT in value:
            return Swept(*value[SWEPT])
        if VAR in value:
            return SweepVar(*value["values"], name=value[VAR])
        if EXPR in value:
            return SweepExpression(value[EXPR], {name: SweepVar(*values, name=name) for name, values in value["vars"].items()})
        return {key: from_plain(item) for key, item in value.items()}
    return [from_plain(item) for item in value] if isinstance(value, list) else value


def _distinct(values: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not values:
        raise InputError("an axis needs at least one value", where=where)
    for index, value in enumerate(values):
        if any(type(value) is type(other) and value == other for other in values[:index]):
            raise InputError("this value appears twice on its axis", where=where, found=value)
    return values


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Equal in type too: 1, 1.0 and True are three values."""
    return one == other and [type(value) for value in one] == [type(value) for value in other]


def _joined(one: SweepExpression, other: SweepExpression) -> dict[str, SweepVar]:
    for name in one.variables.keys() & other.variables.keys():
        if one.variables[name] != other.variables[name]:
            raise InputError("two variables have one name", where=name, found=other.variables[name], expected=one.variables[name])
    return {**one.variables, **other.variables}


def _parsed(text: str) -> ast.expr:
    try:
        tree = ast.parse(str(text).strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(f"this is no expression: {error.msg}", where=str(text)) from None
    for node in ast.walk(tree):
        fine = isinstance(node, ast.Name | ast.Constant | ast.Subscript | ast.Dict | ast.List | ast.Tuple | ast.expr_context)
        fine = fine or isinstance(node, ast.BinOp | ast.UnaryOp) or type(node) in _BINARY or isinstance(node, ast.USub | ast.UAdd)
        if not fine:
            raise InputError(
                f"{type(node).__name__} can't stand in an expression",
                where=str(text),
                expected="numbers, strings, lists, dicts, variables, + - * / // % ** and indexing",
            )
    return tree


def _evaluate(node: ast.expr | None, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return values[node.id]
        case ast.UnaryOp():
            operand = _evaluate(node.operand, values)
            return -operand if isinstance(node.op, ast.USub) else +operand
        case ast.BinOp():
            left, right = _evaluate(node.left, values), _evaluate(node.right, values)
            if isinstance(node.op, ast.Pow) and abs(right) > MAX_POWER:
                raise ValueError(f"an exponent over {MAX_POWER}")
            value = _BINARY[type(node.op)][1](left, right)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                raise ValueError(f"a whole number of over {MAX_BITS} bits")
            return value
        case ast.Subscript():
            return _evaluate(node.value, values)[_evaluate(node.slice, values)]
        case ast.Dict():
            return {_evaluate(k, values): _evaluate(v, values) for k, v in zip(node.keys, node.values, strict=True)}
        case ast.List() | ast.Tuple():
            return [_evaluate(item, values) for item in node.elts]
    raise TypeError(f"{node} is no expression")


def _binary(symbol: str, *, reflected: bool) -> Callable[[SweepExpression, Any], SweepExpression]:
    def combine(self: SweepExpression, other: Any) -> SweepExpression:
        theirs = other if isinstance(other, SweepExpression) else Val(other)
        left, right = (theirs, self) if reflected else (self, theirs)
        return SweepExpression(f"({left.text}) {symbol} ({right.text})", _joined(left, right))

    return combine


for _symbol, _function in _BINARY.values():
    _name = _function.__name__.strip("_")
    setattr(SweepExpression, f"__{_name}__", _binary(_symbol, reflected=False))
    setattr(SweepExpression, f"__r{_name}__", _binary(_symbol, reflected=True))
