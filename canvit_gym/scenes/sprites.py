"""The sprite pack: 16 animals and 24 objects in three art styles, at any size and colouring.

Everything here is a pure function of its arguments; the caches only save time. Arithmetic is on
integers, so that sprites are equal on every machine.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
from PIL import Image

from canvit_gym.scenes.base import Box

Style = Literal["fluent", "twemoji", "noto"]
STYLES: tuple[Style, ...] = ("fluent", "twemoji", "noto")

_COLOR_SEED, _CLUTTER_SEED = 7_001, 7_002
_SHIFT = np.int16(7)  # division by 128; faster than with a Python number

# name -> Unicode codepoint; the order is that of the class ids and of the atlases
_ANIMAL_CODEPOINTS = {
    "dog": "1f436", "cat": "1f431", "fox": "1f98a", "bear": "1f43b",
    "panda": "1f43c", "tiger": "1f42f", "lion": "1f981", "cow": "1f42e",
    "pig": "1f437", "frog": "1f438", "monkey": "1f435", "chicken": "1f414",
    "penguin": "1f427", "bird": "1f426", "owl": "1f989", "wolf": "1f43a",
}  # fmt: skip
_OBJECT_CODEPOINTS = {
    "apple": "1f34e", "banana": "1f34c", "watermelon": "1f349", "strawberry": "1f353",
    "tomato": "1f345", "carrot": "1f955", "corn": "1f33d", "mushroom": "1f344",
    "bread": "1f35e", "cheese": "1f9c0", "pizza": "1f355", "hamburger": "1f354",
    "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2", "rocket": "1f680",
    "sailboat": "26f5", "house": "1f3e0", "football": "26bd", "guitar": "1f3b8",
    "bell": "1f514", "camera": "1f4f7", "shirt": "1f455", "gift": "1f381",
}  # fmt: skip
ANIMALS: tuple[str, ...] = tuple(_ANIMAL_CODEPOINTS)
OBJECTS: tuple[str, ...] = tuple(_OBJECT_CODEPOINTS)
CODEPOINTS: tuple[str, ...] = (*_ANIMAL_CODEPOINTS.values(), *_OBJECT_CODEPOINTS.values())

CELL_PX = 64
COLUMNS = 8
"""An atlas is a grid of square cells, this many to a row, in the order of the class ids."""
OPAQUE_ALPHA = 128
"""A pixel belongs to a sprite where its alpha (0 .. 255) is at least this."""
VARIANTS = 4
"""Every sprite comes in this many fixed colourings, which cost nothing once they are drawn."""
CLUTTER_PX = 256
CLUTTERS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Something ready to be laid over a picture.

    color: int16 [h, w, 3], 0 .. 255, what it adds: its colour weighted by its opacity.
    keep: int16 [h, w, 3], 0 .. 128, how much of what lies beneath stays visible, in 1 / 128.
    shape: bool [h, w], the pixels that belong to it.
    """

    color: np.ndarray
    keep: np.ndarray
    shape: np.ndarray

    @staticmethod
    def from_image(image: Image.Image) -> "Layer":
        pixels = np.asarray(image).astype(np.int16)
        alpha = pixels[..., 3:]
        keep = np.repeat((255 - alpha) * 128 // 255, 3, axis=-1)
        color = pixels[..., :3] * (128 - keep) >> 7
        return Layer(color=color, keep=keep, shape=alpha[..., 0] >= OPAQUE_ALPHA)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.shape.shape
        return height, width

    def __getitem__(self, window: tuple[slice, slice]) -> "Layer":
        """A part of the layer, without a copy."""
        return Layer(color=self.color[window], keep=self.keep[window], shape=self.shape[window])

    def paste(
        self, *, picture: np.ndarray, mask: np.ndarray, class_id: int, top: int, left: int
    ) -> None:
        """Lay it over an int16 [H, W, 3] picture and write its class into a uint8 [H, W] mask."""
        height, width = self.size
        window = slice(top, top + height), slice(left, left + width)
        beneath = picture[window]
        beneath *= self.keep
        beneath >>= _SHIFT
        beneath += self.color
        mask[window][self.shape] = class_id


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """One class in one style, size and colouring. box: the tight box around `layer.shape`."""

    layer: Layer
    box: Box


@cache
def sprite(*, style: Style, class_id: int, size_px: int, flipped: bool, variant: int) -> Sprite:
    """The sprite of a class (0 .. 15 animals, 16 .. 39 objects), its longer side `size_px`."""
    image = _colored(style, class_id, variant)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    layer = Layer.from_image(image.crop(image.getchannel("A").getbbox()))
    rows, cols = (np.flatnonzero(layer.shape.any(axis=axis)) for axis in (1, 0))
    box = Box(
        top=int(rows[0]), left=int(cols[0]), bottom=int(rows[-1]) + 1, right=int(cols[-1]) + 1
    )
    return Sprite(layer=layer, box=box)


@cache
def clutter(*, style: Style, number: int) -> Layer:
    """A CLUTTER_PX square sheet of sprite fragments of 6 .. 12 px, to cut windows from.

    A window of 128 px shows about 20 of them. They are cut from animals and objects alike, and are
    too small to show a whole face.
    """
    rng = np.random.Generator(np.random.PCG64([_CLUTTER_SEED, number]))
    sheet = Image.new("RGBA", (CLUTTER_PX, CLUTTER_PX))
    for _ in range(76):
        piece = _fragment(rng, style)
        left, top = rng.integers(-3, CLUTTER_PX - 3, size=2).tolist()
        sheet.paste(piece, (left, top), piece.getchannel("A"))
    return Layer.from_image(sheet)


def _fragment(rng: np.random.Generator, style: Style) -> Image.Image:
    class_id, variant = rng.integers((len(CODEPOINTS), VARIANTS)).tolist()
    size_px = int(rng.integers(28, 41))
    whole = _colored(style, class_id, variant).resize((size_px, size_px), Image.Resampling.BICUBIC)
    while True:
        height, width = rng.integers(6, 13, size=2).tolist()
        top, left = rng.integers((size_px - height + 1, size_px - width + 1)).tolist()
        piece = whole.crop((left, top, left + width, top + height))
        if np.asarray(piece)[..., 3].mean() > 150:  # mostly sprite, not mostly air
            return piece


@cache
def _atlas(style: Style) -> Image.Image:
    with (files("canvit_gym.assets") / "sprites" / f"{style}.webp").open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def _colored(style: Style, class_id: int, variant: int) -> Image.Image:
    row, column = divmod(class_id, COLUMNS)
    left, top = column * CELL_PX, row * CELL_PX
    pixels = np.array(_atlas(style).crop((left, top, left + CELL_PX, top + CELL_PX)))
    color = pixels[..., :3].astype(np.int32) @ _color_matrix(variant) >> 8
    pixels[..., :3] = np.minimum(color, 255)
    return Image.fromarray(pixels)


@cache
def _color_matrix(variant: int) -> np.ndarray:
    """A mild change of saturation, brightness and tint: int32 [3, 3], in 1 / 256.

    Shared by all classes, so that a colouring says nothing about the class.
    """
    rng = np.random.Generator(np.random.PCG64([_COLOR_SEED, variant]))
    saturation = rng.integers(55, 111)  # in %; what is taken away is replaced by the grey value
    gains = rng.integers(80, 115) * rng.integers(88, 113, size=3)  # brightness x tint, in 1e-4
    grey = np.array([30, 59, 11])  # luminance weights, in %
    mix = saturation * np.eye(3, dtype=np.int64) * 100 + (100 - saturation) * grey[:, None]
    return (mix * gains * 256 // 10**8).astype(np.int32)
