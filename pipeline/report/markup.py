"""HTML by construction: plain text is escaped wherever it goes in, so that no token of a corpus can break the page."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


Child = str | Iterable["Child"]

# Controls have no glyph and most are forbidden in HTML, so their picture (U+2400…) stands for them. A lone surrogate, half of
# a character, can't be written as UTF-8 at all.
_CONTROLS: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: "\u2421"} | {code: "\ufffd" for code in range(0x80, 0xA0)}
_VOID = frozenset({"meta", "link", "br", "line", "path", "rect"})


def printable(text: str) -> str:
    """`text` with a visible sign for each character that can't be shown or written."""
    return text.translate(_CONTROLS).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escape(text: str) -> Html:
    """`text` as it may stand between tags or inside a quoted attribute."""
    return Html(html.escape(printable(text)))


def join(*children: Child) -> Html:
    """`children` one after the other; what is not `Html` is escaped."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element.

    Args:
        tag: its name.
        children: text, elements, or iterables of them.
        attributes: a trailing underscore is dropped (``class_``), other underscores become hyphens; None and False leave the
            attribute out, True writes it without a value.
    """
    opening = [tag]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        opening.append(name if value is True else f'{name}="{escape(str(value))}"')
    if tag in _VOID and not children:
        return Html(f"<{' '.join(opening)}/>")
    return Html(f"<{' '.join(opening)}>{join(*children)}</{tag}>")
