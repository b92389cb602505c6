"""HTML as values: whatever is not markup already is escaped where it is put in."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

_VOID = {"br", "img", "input", "meta"}

_FEW_COLOURS = 5_000  # what cells, masks and small glimpses have at most


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
"""Text, markup, several of them, or nothing."""


def element(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """`<name attributes>children</name>`.

    An attribute's trailing underscore is dropped and others are hyphens, so `class_` is class and
    `aria_label` is aria-label. True is an attribute without a value; None and False are none.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """One after the other."""
    return Markup("".join(map(_escaped, children)))


def number(value: float | None, form: str) -> Markup:
    """A number as people read it and, in full, as programs do; a dash where there is none."""
    if value is None:
        return Markup("–")
    return element("data", text_of(value, form), value=repr(float(value)))


def interval(value: float | None, low: float | None, high: float | None, *, form: str) -> Markup:
    """`value [low, high]`; the value alone where the bounds are unknown."""
    if low is None or high is None:
        return number(value, form)
    between = join("[", number(low, form), ", ", number(high, form), "]")
    return join(number(value, form), " ", element("span", between, class_="interval"))


def text_of(value: float, form: str) -> str:
    """Formatted, without the sign of a zero that only rounding made negative."""
    shown = format(float(value), form)
    is_zero = not any(digit in shown for digit in "123456789")
    return shown.replace("-", "+" if "+" in form else "") if is_zero else shown


def capital(text: str) -> str:
    """With a capital first letter, whatever follows it."""
    return text[:1].upper() + text[1:]


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], *, caption: str) -> Markup:
    """Columns under `head`, each row named by its first cell; it scrolls where it is too wide."""
    body = (
        element("tr", element("th", first, scope="row"), [element("td", cell) for cell in cells])
        for first, *cells in rows
    )
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
        element("tbody", list(body)),
    )
    # Focusable, so that it scrolls by keyboard too.
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(summary: str, *children: Child) -> Markup:
    """Content that is shown only when it is asked for."""
    return element("details", element("summary", summary), *children)


def image(picture: np.ndarray, *, alt: str) -> Markup:
    """uint8 [H, W, 3] inside the page."""
    height, width = picture.shape[:2]
    return element(
        "img", src=data_uri(picture), alt=alt, width=width, height=height, decoding="async"
    )


def data_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] as the address of a WebP that holds itself: exact where it is of few colours,
    as cells and masks are, else with losses that nobody sees."""
    packed = picture.astype(np.int32) @ (1 << 16, 1 << 8, 1)  # rows would take 30 times as long
    if len(np.unique(packed)) <= _FEW_COLOURS:
        data = _webp(picture, lossless=True)
    else:
        data = _webp(picture, quality=80)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _webp(picture: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "webp", method=6, **options)
    return buffer.getvalue()


def _escaped(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return html.escape(child) if isinstance(child, str) else join(*child)
