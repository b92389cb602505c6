"""Charts as inline SVG. Colours come from the page's style sheet, so that they suit its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from canvit_agents.pages.web.markup import Child, Markup, element, join, table, text_of

NUM_COLOURS = 8
"""How many the style sheet has, --c0 and so on. Under each kind of colour blindness two of them
are about 0.1 apart in OKLab, and dashes and marks tell them apart without any colour."""

_DASHES = ("none", "9 4", "3 3", "11 3 3 3", "16 4", "6 2 2 2 2 2")
_MARKS = (  # within 5 units of the middle
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.6-3.6h7.2v7.2h-7.2Z",
    "M0-4.8 4.6 3.6h-9.2Z",
    "M0-5 4.4 0 0 5-4.4 0Z",
    "M0 4.8 4.6-3.6h-9.2Z",
    "M-4.2-1.5h2.7v-2.7h3v2.7h2.7v3h-2.7v2.7h-3v-2.7h-2.7Z",
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 40
_LABEL_PX = 44  # room for a step's name

Scale = Callable[[float], float]
"""From a value to its place in the drawing."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line and the band around it, float64 [steps] each; low and high may be NaN."""

    name: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Trade:
    """A curve of what a policy reaches at what expense: points (expense, value), float64 [n, 2].

    marks: single points, joined by nothing. line: a curve. ring: the mark around which one is
    drawn, None where there is none.
    """

    name: str
    marks: np.ndarray
    line: np.ndarray
    ring: int | None


def style_of(index: int) -> str:
    """Colour and dashes of the index-th curve, as CSS variables."""
    return f"--c:var(--c{index % NUM_COLOURS});--dash:{_DASHES[index % len(_DASHES)]}"


def curve_key(index: int) -> Markup:
    """A piece of the index-th curve, for legends."""
    mark = element(
        "path", d=_MARKS[index % len(_MARKS)], class_="mark", transform="translate(17,7)"
    )
    line = element("path", d="M1 7H33", class_="line")
    return element(
        "svg",
        line,
        mark,
        viewBox="0 0 34 14",
        class_="key",
        style=style_of(index),
        aria_hidden="true",
    )


def line_chart(
    curves: Sequence[Curve], *, label: str, y_title: str, width: int, height: int, class_: str
) -> Markup:
    """Values after each of the steps t0, t1, ..., with a band of uncertainty around each curve."""
    steps = len(curves[0].value)
    ticks = _ticks(np.concatenate([np.stack((c.value, c.low, c.high)) for c in curves]))
    bottom, right = height - _BOTTOM, width - _RIGHT
    x = _scale((0, max(steps - 1, 1)), (_LEFT + 10, right - 10))
    y = _scale((ticks[0], ticks[-1]), (bottom, _TOP))
    every = math.ceil(steps * _LABEL_PX / (right - _LEFT))
    drawn = _vertical_axis(ticks, y=y, right=right, title=y_title)
    for step in range(0, steps, every):
        drawn.append(_text(f"t{step}", x(step), bottom + 18, anchor="middle"))
    drawn.append(_text("glimpse", (_LEFT + right) / 2, height - 4, anchor="middle"))
    drawn += [_band(i, curve, x=x, y=y) for i, curve in enumerate(curves)]
    drawn += [_line(i, curve, x=x, y=y) for i, curve in enumerate(curves)]
    return element(
        "svg", drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_=class_
    )


def trade_chart(
    trades: Sequence[Trade],
    *,
    label: str,
    titles: tuple[str, str, str],
    other_per_expense: float,
    width: int,
    height: int,
    class_: str,
) -> Markup:
    """Values over an expense, which a second axis on top gives in another unit.

    titles: of the values, the expense and the other unit, of which `other_per_expense` make one.
    """
    points = np.concatenate([np.concatenate((t.marks, t.line)) for t in trades])
    across, ticks = _ticks(points[:, 0]), _ticks(points[:, 1])
    top, bottom, right = _TOP + _BOTTOM - 6, height - _BOTTOM, width - _RIGHT
    x = _scale((across[0], across[-1]), (_LEFT + 10, right - 10))
    y = _scale((ticks[0], ticks[-1]), (bottom, top))
    drawn = _vertical_axis(ticks, y=y, right=right, title=titles[0])
    every = math.ceil(len(across) * _LABEL_PX / (right - _LEFT))
    for tick in across[::every]:
        other = text_of(tick * other_per_expense, ".3g")
        drawn += [
            _text(text_of(tick, f".{_digits(across)}f"), x(tick), bottom + 18, anchor="middle"),
            _text(other, x(tick), top - 8, anchor="middle"),
            element("path", d=f"M{x(tick):.1f} {bottom}V{top}", class_="grid"),
        ]
    middle = (_LEFT + right) / 2
    drawn += [
        _text(titles[1], middle, height - 4, anchor="middle"),
        _text(titles[2], middle, 14, anchor="middle"),
    ]
    drawn += [_trade(i, trade, x=x, y=y) for i, trade in enumerate(trades)]
    return element(
        "svg", drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_=class_
    )


def _scale(values: tuple[float, float], places: tuple[float, float]) -> Scale:
    (low, high), (first, last) = values, places
    return lambda value: first + (last - first) * (value - low) / (high - low)


def _digits(ticks: Sequence[float]) -> int:
    """Behind the point, so that ticks are told apart."""
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _vertical_axis(ticks: list[float], *, y: Scale, right: float, title: str) -> list[Child]:
    drawn: list[Child] = []
    for tick in ticks:
        drawn += [
            element("path", d=f"M{_LEFT} {y(tick):.1f}H{right}", class_="grid"),
            _text(text_of(tick, f".{_digits(ticks)}f"), _LEFT - 8, y(tick) + 4, anchor="end"),
        ]
    middle = (y(ticks[0]) + y(ticks[-1])) / 2
    drawn.append(
        element(
            "text", title, class_="tick", text_anchor="middle",
            transform=f"translate(12,{middle:.0f}) rotate(-90)",
        )
    )  # fmt: skip
    return drawn


def _band(index: int, curve: Curve, *, x: Scale, y: Scale) -> Markup | None:
    known = np.flatnonzero(np.isfinite(curve.low) & np.isfinite(curve.high)).tolist()
    around = [f"{x(t):.1f} {y(curve.high[t]):.1f}" for t in known]
    around += [f"{x(t):.1f} {y(curve.low[t]):.1f}" for t in known[::-1]]
    if not around:
        return None
    return element(
        "path", d=f"M{'L'.join(around)}Z", class_=f"band p{index}", style=style_of(index)
    )


def _line(index: int, curve: Curve, *, x: Scale, y: Scale) -> Markup | None:
    known = [(t, float(value)) for t, value in enumerate(curve.value) if np.isfinite(value)]
    if not known:
        return None
    marks = [
        _mark(index, x(t), y(value), title=f"{curve.name}, t{t}: {value:.3f}") for t, value in known
    ]
    line = _path([(x(t), y(value)) for t, value in known])
    return element("g", line, marks, class_=f"p{index}", style=style_of(index))


def _trade(index: int, trade: Trade, *, x: Scale, y: Scale) -> Markup:
    line = _path([(x(a), y(b)) for a, b in trade.line.tolist()])
    marks: list[Child] = []
    for i, (expense, value) in enumerate(trade.marks.tolist()):
        if i == trade.ring:
            place = {"cx": f"{x(expense):.1f}", "cy": f"{y(value):.1f}"}
            marks.append(element("circle", **place, r=9, class_="ring"))
        title = f"{trade.name}, {expense:.2f}: {value:.3f}"
        marks.append(_mark(index, x(expense), y(value), title=title))
    return element("g", line, marks, class_=f"p{index}", style=style_of(index))


def _path(places: Sequence[tuple[float, float]]) -> Markup:
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return element("path", d=f"M{points}", class_="line")


def _mark(index: int, x: float, y: float, *, title: str) -> Markup:
    return element(
        "path",
        element("title", title),
        d=_MARKS[index % len(_MARKS)],
        class_="mark",
        transform=f"translate({x:.1f},{y:.1f})",
    )


def scene_map(
    values: np.ndarray, *, label: str, form: str, over: Child = None, largest: float | None = None
) -> Markup:
    """Values [G, G] of the cells of a grid over the scene, row downwards: the farther from 0, the
    stronger the colour, up to `largest`; negative ones have another. `over` is drawn on top, in
    units of cells."""
    size = len(values)
    largest = float(np.nanmax(np.abs(values))) if largest is None else largest
    cells = [
        element(
            "rect",
            element("title", f"row {row}, column {col}: {text_of(values[row, col], form)}"),
            x=col,
            y=row,
            width=1,
            height=1,
            class_="gain" if values[row, col] >= 0 else "loss",
            fill_opacity=f"{abs(values[row, col]) / largest if largest else 0:.3f}",
        )
        for row in range(size)
        for col in range(size)
    ]
    return element(
        "svg",
        cells,
        over,
        viewBox=f"0 0 {size} {size}",
        role="img",
        aria_label=label,
        class_="cells",
    )


def map_table(values: np.ndarray, *, form: str, caption: str) -> Markup:
    """The same values as numbers."""
    size = len(values)
    rows = ([str(r), *(text_of(value, form) for value in values[r])] for r in range(size))
    return table(["row \\ column", *map(str, range(size))], rows, caption=caption)


def box(viewpoint: Sequence[float], *, size: int, class_: str) -> Markup:
    """The edge of a crop (row, col, scale) on a map of size x size cells, dark on both sides."""
    row, col, scale = viewpoint
    left, top, side = ((v * size / 2) for v in (col - scale + 1, row - scale + 1, 2 * scale))
    place = {"x": f"{left:.3f}", "y": f"{top:.3f}", "width": f"{side:.3f}", "height": f"{side:.3f}"}
    return join(*(element("rect", **place, class_=f"{kind} {class_}") for kind in ("edge", "box")))


def _text(content: str, x: float, y: float, *, anchor: str) -> Markup:
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_="tick")


def _ticks(values: np.ndarray) -> list[float]:
    """Four to eight round numbers around all of the finite values."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if (high - low) / (s * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]
