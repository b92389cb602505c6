"""Maps of depth as pictures, near ones bright, and in numbers."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw
from torch import Tensor

from canvit_gym.drawing import (
    INK,
    OTHER,
    PANEL_PX,
    ROW_PX,
    Panel,
    blank_panel,
    cells_panel,
    draw_bar,
    font,
)
from canvit_gym.palette import IGNORED, heat
from canvit_gym.tasks.base import Description, Line

_WORST = 0.5
"""A difference of log depths that is drawn as bright as there is."""

Figures = tuple[float, float, float]
"""Explained variance, scale-invariant error, relative error."""


def depth_panels(
    believed: Tensor,
    true: Tensor,
    *,
    doubt: Tensor,
    log_range: tuple[float, float],
    figures: Figures,
) -> list[Panel]:
    """Pictures of where the depth is in doubt, of the believed and the true one, and of where they
    differ.

    believed, true: log depths, float32 [S, S], true ones NaN where unknown. doubt: float32 [G, G],
    in [0, 1]. log_range: log depths that are drawn brightest and darkest.
    """
    error = (believed - true).abs().cpu().numpy() / _WORST
    explained, _, _ = figures
    return [
        Panel(
            caption="doubt",
            image=cells_panel(heat(doubt.cpu().numpy())),
            title="doubt",
            alt="Where the depth is in doubt, bright for more,",
        ),
        Panel(
            caption=f"depth: {explained:.0%} explained",
            image=cells_panel(_nearness(believed, log_range)),
            title="believed depth",
            alt="The depth as it is believed, bright for near,",
        ),
        Panel(
            caption="true depth",
            image=cells_panel(_nearness(true, log_range)),
            title="true depth",
            alt="The true depth, bright for near",
            shows_truth=True,
        ),
        Panel(
            caption="where it is wrong",
            image=cells_panel(_coloured(error)),
            title="error",
            alt="Where the depth is wrong, bright for more",
            shows_truth=True,
        ),
        _figures_panel(figures),
    ]


def describe_depth(believed: Tensor, true: Tensor | None, *, figures: Figures) -> Description:
    """believed, true: log depths, float32 [S, S], true ones NaN where unknown, or None where they
    are not to be known."""
    values = [believed.exp().cpu().numpy().ravel()]
    if true is not None:
        known = true.exp().cpu().numpy().ravel()
        values.append(known[~np.isnan(known)])
    lines = tuple(
        Line(name=name, numbers=tuple(_quantile(depths, share) for depths in values))
        for name, share in (("nearest", 0.0), ("median", 0.5), ("farthest", 1.0))
    )
    explained, si_error, _ = figures
    verdict = f"{explained:.0%} of the variance explained, scale-invariant error {si_error:.2f}."
    if true is None:
        nearest, _, farthest = (line.numbers[0] for line in lines)
        verdict = f"CanViT believes in depths from {nearest:.1f} to {farthest:.1f}."
    return Description(
        verdict=verdict,
        head=("depth", "believed", *(() if true is None else ("true",))),
        lines=lines,
        percent=False,
    )


def _quantile(depths: np.ndarray, share: float) -> float:
    return float(np.quantile(depths, share)) if len(depths) else float("nan")


def _nearness(log_depth: Tensor, log_range: tuple[float, float]) -> np.ndarray:
    """Colours of log depths [H, W], near ones bright: uint8 [H, W, 3]."""
    low, high = log_range
    return _coloured(((high - log_depth) / (high - low)).cpu().numpy())


def _coloured(levels: np.ndarray) -> np.ndarray:
    """Colours of levels 0 .. 1, and grey where they are NaN."""
    known = ~np.isnan(levels)
    colours = heat(np.where(known, levels, 0).clip(0, 1))
    colours[~known] = IGNORED
    return colours


def _figures_panel(figures: Figures) -> Panel:
    image = blank_panel()
    draw = ImageDraw.Draw(image)
    names = ("explained variance", "scale-invariant error", "relative error")
    for i, (name, figure) in enumerate(zip(names, figures, strict=True)):
        top = i * ROW_PX
        draw.text((0, top), name, INK, font(14))
        draw.text((PANEL_PX, top), f"{figure:.2f}", INK, font(14), anchor="ra")
        draw_bar(draw, top=top + 19, share=min(max(figure, 0.0), 1.0), colour=OTHER)
    return Panel(caption="figures", image=image, shows_truth=True, has_footer=True)
