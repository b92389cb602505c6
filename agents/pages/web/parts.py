"""Pieces of pages: a picture with its title, a belief as a table, a bar, the style."""

from __future__ import annotations

from importlib import resources

from canvit_agents.pages.web.markup import Markup, element, image, number
from canvit_agents.pages.web.steps import Belief, Panel


def page_style() -> str:
    """The style of every page."""
    return read_asset("canvit_agents.pages.web", "page.css")


def read_asset(package: str, name: str) -> str:
    """A text file that the package brings."""
    return (resources.files(package) / name).read_text(encoding="utf-8").strip()


def panel_figure(panel: Panel) -> Markup:
    return element(
        "figure", image(panel.picture, alt=panel.alt), element("figcaption", panel.title)
    )


def beliefs_table(beliefs: tuple[Belief, ...]) -> Markup:
    of_masks = any(belief.colour is not None for belief in beliefs)
    head = ["largest classes", "decoded"] if of_masks else ["belief", ""]
    if any(belief.true is not None for belief in beliefs):
        head.append("true")
    rows = []
    for belief in beliefs:
        swatch = None
        if belief.colour is not None:
            colour = "rgb({} {} {})".format(*belief.colour)
            swatch = element(
                "span", class_="swatch", style=f"--swatch:{colour}", aria_hidden="true"
            )
        name = f"{belief.name} (label)" if belief.is_label else belief.name
        filled = None if of_masks else bar(belief.share)
        cells = [element("td", _percent(belief.share))]
        if belief.true is not None:
            cells.append(element("td", _percent(belief.true)))
        rows.append(
            element(
                "tr",
                element("th", element("span", swatch, name, class_="named"), filled, scope="row"),
                cells,
                class_="label" if belief.is_label else None,
            )
        )
    return element(
        "table",
        element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
        element("tbody", rows),
        class_="beliefs of-masks" if of_masks else "beliefs",
    )


def bar(share: float) -> Markup:
    """A bar of that share of its place's width; a picture of a number that stands beside it."""
    return element("span", class_="bar", style=f"--share:{share:.1%}", aria_hidden="true")


def _percent(share: float) -> Markup:
    return number(share, ".1%" if 0 < share < 0.01 else ".0%")
