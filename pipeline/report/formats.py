"""Numbers as a reader likes them: few digits, thousands apart, powers of ten set as such."""

from __future__ import annotations

import math

NOT_FINITE = "not finite"
_PERCENT = "\N{NO-BREAK SPACE}%"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def number(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant digits; whole numbers keep all of theirs.

    >>> number(0.21345), number(100000), number(3.1e-5)
    ('0.213', '100,000', '3.1×10⁻⁵')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return NOT_FINITE
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    size = abs(value)
    if size >= 10**digits:
        text = f"{value:,.0f}"
    elif size >= 1e-3:
        text = f"{value:.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}×{power_of_ten(int(exponent))}"
    return text.replace("-", "−")


def precise(value: float) -> str:
    """`value` to six digits, less the zeros that say nothing.

    >>> precise(0.3127), precise(2999.0), precise(15.25)
    ('0.3127', '2,999', '15.25')
    """
    text = number(value, 6)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def percent(share: float | None) -> str:
    r"""A share of one as a percentage; the sign stays with its number at the end of a line.

    >>> percent(0.9796), percent(0.00031), percent(0.1)
    ('98.0\xa0%', '0.031\xa0%', '10\xa0%')
    """
    if share is None or not math.isfinite(share):
        return number(share)
    value = 100 * share
    if abs(value - round(value)) < 1e-9:
        return f"{round(value)}{_PERCENT}".replace("-", "−")
    if abs(value) >= 1:
        return f"{value:.1f}{_PERCENT}".replace("-", "−")
    return number(value, 2) + _PERCENT


def tick(value: float) -> str:
    """A short label for an axis.

    >>> tick(0.25), tick(3000), tick(250000), tick(1e-4)
    ('0.25', '3,000', '250k', '10⁻⁴')
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10_000:
        unit, suffix = next((unit, suffix) for unit, suffix in _SUFFIXES if size >= unit)
        return f"{value / unit:.4g}{suffix}".replace("-", "−")
    if size < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        power = power_of_ten(int(exponent))
        return (power if mantissa == "1" else f"{mantissa}×{power}").replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """``10⁻³`` and the like; one is written as 1."""
    return "1" if exponent == 0 else "10" + str(exponent).translate(_SUPERSCRIPT)


def plain(value: object) -> str:
    """A parameter as YAML would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan" if math.isnan(value) else repr(value))
    return str(value)
