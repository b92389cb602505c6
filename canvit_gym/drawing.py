"""Pieces that pictures of an episode are drawn from: panels, bars, text, cells as squares.

Coordinates are (row, col) as everywhere; only the calls to Pillow, which wants (x, y), turn them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL_PX, GAP_PX = 256, 16
ROW_PX, BAR_PX = 36, 8
ROWS = 6
"""How many things a panel lists."""

PAPER, EMPTY, INK, FAINT = (255, 255, 255), (238, 240, 243), (31, 35, 40), (110, 118, 129)
MARKED, OTHER = (26, 148, 84), (138, 155, 178)
GLIMPSE, EARLIER = (255, 196, 0), (255, 228, 150)

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of an episode, PANEL_PX high, and what is said of it.

    caption: above it in a rendered frame. title, alt: on a page, where `title` is what it shows in
    few words and `alt` the same for those who do not see it; "" where the panel is for frames only,
    because pages say it as text. shows_truth: whether it depends on what only a judge knows.
    has_footer: whether its lowest 30 rows are free for the episode's budget.
    """

    caption: str
    image: Image.Image
    title: str = ""
    alt: str = ""
    shows_truth: bool = False
    has_footer: bool = False


def blank_panel(*, width_px: int = PANEL_PX) -> Image.Image:
    """White, to be drawn on."""
    return Image.new("RGB", (width_px, PANEL_PX), PAPER)


def cells_panel(colours: np.ndarray) -> Image.Image:
    """Colours of pixels or cells, uint8 [H, W, 3], enlarged without smoothing: they are what the
    model works with."""
    return Image.fromarray(colours).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)


def draw_bar(
    draw: ImageDraw.ImageDraw, *, top: int, share: float, colour: Colour, width_px: int = PANEL_PX
) -> None:
    """A bar of `share`, 0 .. 1, of the width."""
    draw.rectangle((0, top, width_px - 1, top + BAR_PX - 1), fill=EMPTY)
    if (length := round(share * width_px)) > 0:
        draw.rectangle((0, top, length - 1, top + BAR_PX - 1), fill=colour)


def shorten(text: str, *, room_px: float) -> str:
    """The text, cut to fit so many pixels at size 14."""
    if font(14).getlength(text) <= room_px:
        return text
    while text and font(14).getlength(text + "...") > room_px:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)
