"""Pieces of pages: a picture with its title, a belief as a table, a bar, the style."""

from __future__ import annotations

import math
from importlib import resources

from canvit_agents.pages.web.markup import Markup, element, image, number
from canvit_agents.pages.web.steps import Figure
from canvit_gym.tasks.base import Description


def page_style() -> str:
    """The style of every page."""
    return read_asset("canvit_agents.pages.web", "page.css")


def read_asset(package: str, name: str) -> str:
    """A text file that the package brings."""
    return (resources.files(package) / name).read_text(encoding="utf-8").strip()


def figure(drawn: Figure) -> Markup:
    return element(
        "figure", image(drawn.picture, alt=drawn.alt), element("figcaption", drawn.title)
    )


def belief_table(belief: Description) -> Markup:
    rows = []
    for line in belief.lines:
        swatch = None
        if line.colour is not None:
            colour = "rgb({} {} {})".format(*line.colour)
            swatch = element(
                "span", class_="swatch", style=f"--swatch:{colour}", aria_hidden="true"
            )
        name = f"{line.name} (label)" if line.marked else line.name
        filled = None if line.bar is None else bar(line.bar)
        show = _percent if belief.percent else _decimal
        rows.append(
            element(
                "tr",
                element("th", element("span", swatch, name, class_="named"), filled, scope="row"),
                [element("td", show(value)) for value in line.numbers],
                class_="label" if line.marked else None,
            )
        )
    wide = any(line.bar is None for line in belief.lines)
    return element(
        "table",
        element("thead", element("tr", [element("th", cell, scope="col") for cell in belief.head])),
        element("tbody", rows),
        class_="beliefs wide" if wide else "beliefs",
    )


def bar(share: float) -> Markup:
    """A bar of that share of its place's width; a picture of a number that stands beside it."""
    return element("span", class_="bar", style=f"--share:{share:.1%}", aria_hidden="true")


def _decimal(value: float) -> Markup:
    return number(value if math.isfinite(value) else None, ".2f")


def _percent(share: float) -> Markup:
    return number(share, ".1%" if 0 < share < 0.01 else ".0%")
