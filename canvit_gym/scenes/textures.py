"""The ground that things lie on: six kinds of procedural texture and wavy borders between them.

Everything is made once from fixed seeds with integer arithmetic and Pillow's resizing, so that it
is equal on every machine; scenes cut random windows out of it.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

STUFF: tuple[str, ...] = ("grass", "water", "sand", "brick", "wood", "cloud")
TEXTURE_PX = 288
TINTS = 6
REGION_MAPS = 64
REGION_PX = 160
WINDOW_PX = 128
"""A window of this size cut anywhere from a region map shows all three regions."""

_PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    # dark and light end of each kind
    "grass": ((38, 84, 30), (134, 176, 74)),
    "water": ((26, 82, 128), (136, 196, 214)),
    "sand": ((168, 136, 84), (232, 208, 156)),
    "brick": ((120, 52, 40), (206, 186, 170)),
    "wood": ((88, 54, 28), (184, 132, 82)),
    "cloud": ((120, 160, 212), (244, 246, 248)),
}


def _rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([7_003, *seed]))


def smooth_noise(*, rng: np.random.Generator, size_px: int, cells: tuple[int, int]) -> np.ndarray:
    """int64 [size_px, size_px], 0 .. 255: random values on a (rows, cols) grid, interpolated."""
    grid = rng.integers(0, 256, size=cells, dtype=np.uint8)
    image = Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image).astype(np.int64)


@cache
def _lightness(kind: str) -> np.ndarray:
    """int64 [TEXTURE_PX, TEXTURE_PX], 0 .. 255: what makes a kind what it is, uncoloured."""
    rng = _rng(STUFF.index(kind))
    rows, cols = np.mgrid[:TEXTURE_PX, :TEXTURE_PX]

    def noise(cell_rows: int, cell_cols: int) -> np.ndarray:
        return smooth_noise(rng=rng, size_px=TEXTURE_PX, cells=(cell_rows, cell_cols))

    if kind == "grass":  # upright blades
        lightness = (noise(60, 180) * 5 + noise(8, 8) * 3) // 8
    elif kind == "water":  # lying ripples, bent by a slow swell
        phase = (rows * 24 + noise(10, 6) * 2 + noise(40, 14)) % 256
        ripple = np.abs(phase - 128) * 2
        lightness = (ripple * 3 + noise(50, 14) * 5) // 8
    elif kind == "sand":  # fine grain on faint dunes
        grain = noise(TEXTURE_PX, TEXTURE_PX) + noise(100, 100)
        lightness = (grain + noise(9, 5) * 2) // 4
    elif kind == "brick":  # courses of bricks, every other one shifted by half a brick
        course = rows // 10
        shifted = cols + course % 2 * 11
        mortar = (rows % 10 < 2) | (shifted % 22 < 2)
        brick = rng.integers(20, 110, size=(64, 64))[course, shifted // 22]
        lightness = np.where(mortar, 235, brick) + (noise(140, 140) - 128) // 6
    elif kind == "wood":  # long grain along the boards, dark gaps between them
        board = rng.integers(-28, 29, size=16)[rows // 24]
        grain = (noise(140, 10) * 5 + noise(30, 4) * 3) // 8
        lightness = np.where(rows % 24 < 1, 0, grain + board)
    else:  # cloud: soft and billowing, with more contrast than the noise has
        lightness = (noise(6, 5) * 3 + noise(18, 14)) * 3 // 8 - 64
    clipped: np.ndarray = np.clip(lightness, 0, 255)
    return clipped


@cache
def texture(*, kind: int, tint: int) -> np.ndarray:
    """uint8 [TEXTURE_PX, TEXTURE_PX, 3]: a kind (index into STUFF) in one of TINTS colourings."""
    rng = _rng(100 + kind, tint)
    dark, light = np.array(_PALETTES[STUFF[kind]])
    brightness = rng.integers(-26, 27)
    dark = dark + brightness + rng.integers(-24, 25, size=3)
    light = light + brightness + rng.integers(-24, 25, size=3)
    steps = np.arange(256)[:, None]
    palette = np.clip((dark * (255 - steps) + light * steps) // 255, 0, 255)
    tinted: np.ndarray = palette.astype(np.uint8)[_lightness(STUFF[kind])]
    return tinted


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Three regions of a square of REGION_PX.

    number: uint8 [REGION_PX, REGION_PX], 0 .. 2.
    is_second, is_third: uint8 [REGION_PX, REGION_PX, 3], 255 in region 1 or 2, else 0; for
        selecting among pictures.
    """

    number: np.ndarray
    is_second: np.ndarray
    is_third: np.ndarray


@cache
def regions(*, number: int) -> Regions:
    """A Voronoi diagram of three points whose borders are bent by smooth noise."""
    rng = _rng(200, number)
    core = slice(REGION_PX - WINDOW_PX, WINDOW_PX)  # what every window contains
    while True:
        points = rng.integers(20, REGION_PX - 20, size=(3, 2))
        rows, cols = np.mgrid[:REGION_PX, :REGION_PX]
        rows = rows + (smooth_noise(rng=rng, size_px=REGION_PX, cells=(6, 6)) - 128) // 4
        cols = cols + (smooth_noise(rng=rng, size_px=REGION_PX, cells=(6, 6)) - 128) // 4
        rows = rows + (smooth_noise(rng=rng, size_px=REGION_PX, cells=(20, 20)) - 128) // 16
        distance = (rows - points[:, 0, None, None]) ** 2 + (cols - points[:, 1, None, None]) ** 2
        nearest = distance.argmin(axis=0).astype(np.uint8)
        shares = np.bincount(nearest[core, core].ravel(), minlength=3)
        if shares.min() * 8 > shares.sum():
            three = nearest[..., None].repeat(3, axis=-1)
            second, third = ((three == region).astype(np.uint8) * 255 for region in (1, 2))
            return Regions(number=nearest, is_second=second, is_third=third)
