"""Where policies look: centres, scales, measures of scanpaths."""

from __future__ import annotations

import math

import numpy as np

from canvit_agents.pages.report.charts import curve_key, map_table, scene_map, style_of
from canvit_agents.pages.report.saved import SavedRun
from canvit_agents.pages.web.markup import Markup, element, folded, join, number, table
from canvit_agents.pages.web.parts import bar
from canvit_gym.scanpaths import ENTROPY_GRID, SCALE_EDGES

_MEASURES = {
    "coverage": "share of the scene that was seen",
    "revisits": "share of glimpses at what was seen as closely before",
    "saccade_length": "distance between successive centres (the scene's side is 2)",
    "center_distance": "distance of the centres from the scene's middle",
    "entropy": f"entropy of the centres over {ENTROPY_GRID} x {ENTROPY_GRID} cells, nats "
    f"(at most {2 * math.log(ENTROPY_GRID):.2f})",
}


def places(run: SavedRun) -> Markup:
    cards = [
        element("li", _place_card(run, i, name), class_="card", style=style_of(i))
        for i, name in enumerate(run.evidence)
    ]
    measures = [
        [
            element("span", curve_key(i), " ", name, class_="named"),
            *(number(row["scanpath"][key], ".2f") for key in _MEASURES),
        ]
        for i, (name, row) in enumerate(run.summary["policies"].items())
    ]
    head = ["policy", *(key.replace("_", " ") for key in _MEASURES)]
    terms = [
        join(element("dt", key.replace("_", " ")), element("dd", meaning))
        for key, meaning in _MEASURES.items()
    ]
    return join(
        element(
            "p",
            "Centres and scales of the glimpses that were chosen: t0 is left out where it was "
            "given. Maps cover the scene, row downwards; their cells are counted from 0 at the top "
            "left.",
        ),
        element("ul", cards, class_="cards"),
        element("h3", "Scanpaths"),
        table(head, measures, caption="Measures of scanpaths, means over episodes"),
        folded("What the measures mean", element("dl", terms, class_="terms")),
    )


def _place_card(run: SavedRun, index: int, name: str) -> Markup:
    evidence = run.evidence[name]
    given = evidence.settings["policy"]["initial_glimpse"] is not None
    shares = centre_shares(evidence.seen.viewpoints[:, int(given) :])
    row, col = (int(i) for i in np.unravel_index(shares.argmax(), shares.shape))
    most = f"most often, {shares[row, col]:.0%}, in row {row}, column {col}"
    if not shares.any():
        most = "no glimpse was chosen"
    label = f"{name}: centres over {ENTROPY_GRID} x {ENTROPY_GRID} cells of the scene, {most}"
    scales = run.summary["policies"][name]["scanpath"]["scales"]["share"]
    edges = [*map(_fraction, SCALE_EDGES)]
    named = [f"{low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]
    named[0] = f"below {edges[1]}"
    bars = [
        element(
            "tr",
            element("th", what, scope="row"),
            element("td", bar(share or 0), class_="of-bar"),
            element("td", number(share, ".0%")),
        )
        for what, share in zip(
            [*named, "full scene"], scales or [None] * len(SCALE_EDGES), strict=True
        )
    ]
    return join(
        element("h3", curve_key(index), " ", element("span", name)),
        element("div", scene_map(shares, label=label, form=".1%"), class_="map"),
        element("p", f"Centres: {most}.", class_="note"),
        element("table", element("caption", "Scales"), element("tbody", bars), class_="bars"),
        folded(
            "Centres as a table",
            map_table(shares, form=".1%", caption=f"Share of the centres of {name} in each cell"),
        ),
    )


def centre_shares(viewpoints: np.ndarray) -> np.ndarray:
    """Share of the centres of viewpoints [..., 3] in each of the cells that `viewpoint_entropy`
    counts: float64 [grid, grid], zeros where no glimpse was taken."""
    taken = viewpoints[viewpoints[..., 2] > 0]
    cells = ((taken[:, :2].astype(np.float64) + 1) / 2 * ENTROPY_GRID).astype(np.int64)
    row, col = np.moveaxis(cells.clip(0, ENTROPY_GRID - 1), -1, 0)
    counts = np.bincount(row * ENTROPY_GRID + col, minlength=ENTROPY_GRID**2)
    return counts.reshape(ENTROPY_GRID, ENTROPY_GRID) / max(counts.sum(), 1)


def _fraction(scale: float) -> str:
    return "1" if scale == 1 else f"1/{1 / scale:.0f}" if scale else "0"
