"""Find and name the animal: endless generated scenes that are cheap to draw and hard at a glance.

One animal lies among seven other objects and about twenty fragments of clutter on three kinds of
ground. Looked at whole, with few pixels, the scene gives little away; looked at closely it is easy.
"""

from functools import cache
from operator import index as as_int
from random import Random
from typing import Literal, get_args

import numpy as np

from canvit_gym.scenes import sprites, textures
from canvit_gym.scenes.base import Box, Scene, SceneObject
from canvit_gym.scenes.sprites import ANIMALS, OBJECTS, Style
from canvit_gym.scenes.textures import STUFF

Split = Literal["backbone", "train", "test", "test_style"]
SPLITS: tuple[Split, ...] = get_args(Split)

SIZE_PX = 128
MASK_CLASS_NAMES: tuple[str, ...] = (*ANIMALS, *OBJECTS, *STUFF, "fragment")
FIRST_OBJECT = len(ANIMALS)
FIRST_STUFF = FIRST_OBJECT + len(OBJECTS)
FRAGMENT = FIRST_STUFF + len(STUFF)

N_OBJECTS = 7
ANIMAL_PX = (13, 15, 17, 19)
OBJECT_PX = (12, 14, 16, 18, 20)
"""Longer sides, in pixels; every second one, which keeps the cache of sprites small."""

_STYLES: dict[Split, tuple[Style, ...]] = {
    "backbone": ("fluent", "twemoji"),
    "train": ("fluent", "twemoji"),
    "test": ("fluent", "twemoji"),
    "test_style": ("noto",),
}
_LENGTHS: dict[Split, int] = {
    "backbone": 2**31 - 1,
    "train": 2**31 - 1,
    "test": 100_000,
    "test_style": 100_000,
}
_LIGHTS = 64
_NOISE_PX = 256
_NOISE_LEVEL = 5  # pixel noise is uniform on -5 .. 5
_LIGHT_SEED, _NOISE_SEED = 7_004, 7_005


class EmojiScenes:
    """Scenes of one split. `scenes[index]` is a pure function of the split and the index.

    Every scene has its own random stream, seeded with split and index, so splits are
    disjoint by construction. `backbone`, `train` and `test` draw from the same distribution;
    `test_style` shows the same classes in an art style that no other split ever shows.

    `class_names` are the 16 animals; `mask_class_names` are the animals, 24 objects, 6 kinds of
    ground and "fragment", so an animal's label is also its mask value.

    With `depth` scenes have `Scene.depth`, too; nothing else about them changes. The ground is a
    tilted plane, on which fragments lie flat, and objects hang before it, upright and each as far
    away as its size says: the real one (`FROM_SMALL_TO_LARGE`) over that in the picture. So who
    knows what a thing is knows how far away it is. Relative: the ground from 5 at the lowest row to
    10 at the highest, objects nearer than that.
    """

    size_px: int = SIZE_PX
    exchangeable = True
    class_names: tuple[str, ...] = ANIMALS
    mask_class_names: tuple[str, ...] = MASK_CLASS_NAMES

    def __init__(self, *, split: Split, depth: bool = False) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, but must be one of {', '.join(SPLITS)}.")
        self.split: Split = split
        self.depth = depth

    def __len__(self) -> int:
        return _LENGTHS[self.split]

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= as_int(index) < len(self):
            raise IndexError(
                f"index is {index}, but the {self.split!r} split has scenes 0 .. {len(self) - 1}."
            )
        return draw_scene(split=self.split, index=as_int(index), depth=self.depth)

    def __repr__(self) -> str:
        return f"EmojiScenes(split={self.split!r}{', depth=True' if self.depth else ''})"


EMOJI = "emoji"
"""The name of these scenes where scenes are named; any other name is that of a folder."""


def open_emoji(name: str, *, split: str, size_px: int, depth: bool = False) -> EmojiScenes | None:
    """Generated scenes where `name` is theirs, else None; raises ValueError for another size."""
    if name != EMOJI:
        return None
    if size_px != SIZE_PX:
        raise ValueError(
            f"scene_size_px is {size_px}, but generated scenes have {SIZE_PX} px; give that."
        )
    return EmojiScenes(split=split, depth=depth)  # type: ignore[arg-type]  # it checks the name


def draw_scene(*, split: Split, index: int, depth: bool = False) -> Scene:
    # Python's generator: seeding and single draws are several times faster than numpy's. Seeded
    # with a text, which it hashes: small whole numbers of different lengths can collide.
    rng = Random(f"{split}/{index}")
    style = _STYLES[split][_below(rng, len(_STYLES[split]))]
    picture, mask = _draw_ground(rng)
    _scatter_fragments(picture, mask, rng=rng, style=style)
    objects = _place_objects(picture, mask, rng=rng, style=style)
    animal = next(thing for thing in objects if thing.class_id < FIRST_OBJECT)
    return Scene(
        name=f"emoji/{split}/{index}",
        picture=_light(picture, rng=rng),
        label=animal.class_id,
        mask=mask,
        target=animal.box,
        objects=objects,
        depth=_depth(mask, objects) if depth else None,
    )


FROM_SMALL_TO_LARGE = (
    "strawberry", "mushroom", "frog", "bird", "tomato", "apple", "bell", "camera", "cheese",
    "hamburger", "carrot", "banana", "corn", "football", "bread", "owl", "watermelon", "pizza",
    "gift", "chicken", "cat", "shirt", "monkey", "fox", "penguin", "dog", "guitar", "wolf", "pig",
    "bicycle", "panda", "lion", "tiger", "bear", "cow", "car", "sailboat", "bus", "house", "rocket",
)  # fmt: skip
"""Animals and objects as large as in the world, roughly, each by the same factor larger than the
one before, the last one three times as large as the first."""

_LARGEST, _NEAR_PX = 3.0, 16  # the smallest thing, seen at so many pixels, is at depth 1
_NEAREST_GROUND, _FARTHEST_GROUND = 5.0, 10.0


@cache
def _real_sizes() -> np.ndarray:
    """float64 [animals and objects]: of each class, 1 to _LARGEST."""
    sizes = np.geomspace(1, _LARGEST, len(FROM_SMALL_TO_LARGE))
    by_name = dict(zip(FROM_SMALL_TO_LARGE, sizes, strict=True))
    return np.array([by_name[name] for name in MASK_CLASS_NAMES[:FIRST_STUFF]])


@cache
def _ground_depth() -> np.ndarray:
    """float32 [SIZE_PX]: the depth of each row of a plane, whose inverse is linear in the row."""
    inverse = np.linspace(1 / _FARTHEST_GROUND, 1 / _NEAREST_GROUND, SIZE_PX)
    return (1 / inverse).astype(np.float32)


def _depth(mask: np.ndarray, objects: tuple[SceneObject, ...]) -> np.ndarray:
    """float32 [SIZE_PX, SIZE_PX] of a drawn scene."""
    depth = np.repeat(_ground_depth()[:, None], SIZE_PX, axis=1)
    for thing in objects:
        box = slice(thing.box.top, thing.box.bottom), slice(thing.box.left, thing.box.right)
        side = max(thing.box.bottom - thing.box.top, thing.box.right - thing.box.left)
        # Boxes of objects do not overlap, and nothing else has their classes.
        where = mask[box] == thing.class_id
        depth[box][where] = _real_sizes()[thing.class_id] * _NEAR_PX / side
    return depth


def _below(rng: Random, limit: int) -> int:
    """A random number from 0 .. limit - 1."""
    # only random() promises the same numbers in every version of Python; randrange() does not
    return int(rng.random() * limit)


def _draw_ground(rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Three regions, each filled with another kind of texture.

    Returns an int16 [SIZE_PX, SIZE_PX, 3] picture and its uint8 [SIZE_PX, SIZE_PX] mask.
    """
    unused = list(range(len(STUFF)))
    kinds = [unused.pop(_below(rng, len(unused))) for _ in range(3)]
    first, second, third = (
        textures.texture(kind=kind, tint=_below(rng, textures.TINTS))[
            _random_window(rng, within_px=textures.TEXTURE_PX)
        ]
        for kind in kinds
    )
    regions = textures.regions(number=_below(rng, textures.REGION_MAPS))
    window = _random_window(rng, within_px=textures.REGION_PX)
    # selecting bit by bit is many times faster than np.where
    picture = first ^ ((first ^ second) & regions.is_second[window])
    picture ^= (picture ^ third) & regions.is_third[window]
    stuff = np.array([FIRST_STUFF + kind for kind in kinds], dtype=np.uint8)
    return picture.astype(np.int16), stuff.take(regions.number[window])


def _random_window(rng: Random, *, within_px: int) -> tuple[slice, slice]:
    """Rows and columns of SIZE_PX x SIZE_PX pixels somewhere in a larger square."""
    room = within_px - SIZE_PX + 1
    top, left = _below(rng, room), _below(rng, room)
    return slice(top, top + SIZE_PX), slice(left, left + SIZE_PX)


def _scatter_fragments(picture: np.ndarray, mask: np.ndarray, *, rng: Random, style: Style) -> None:
    sheet = sprites.clutter(style=style, number=_below(rng, sprites.CLUTTERS))
    fragments = sheet[_random_window(rng, within_px=sprites.CLUTTER_PX)]
    fragments.paste(picture=picture, mask=mask, class_id=FRAGMENT, top=0, left=0)


def _place_objects(
    picture: np.ndarray, mask: np.ndarray, *, rng: Random, style: Style
) -> tuple[SceneObject, ...]:
    """Paste one animal and seven objects where none overlaps another.

    The animal takes a random turn among the objects, so nothing about the layout tells it apart.
    """
    classes = [FIRST_OBJECT + _below(rng, len(OBJECTS)) for _ in range(N_OBJECTS)]
    classes.insert(_below(rng, N_OBJECTS + 1), _below(rng, len(ANIMALS)))
    things = []
    for class_id in classes:
        sizes = ANIMAL_PX if class_id < FIRST_OBJECT else OBJECT_PX
        thing = sprites.sprite(
            style=style,
            class_id=class_id,
            size_px=sizes[_below(rng, len(sizes))],
            flipped=rng.random() < 0.5,
            variant=_below(rng, sprites.VARIANTS),
        )
        things.append(thing)
    places = place_apart(rng=rng, sizes=[thing.layer.size for thing in things])
    objects = []
    for class_id, thing, (top, left) in zip(classes, things, places, strict=True):
        thing.layer.paste(picture=picture, mask=mask, class_id=class_id, top=top, left=left)
        objects.append(SceneObject(class_id=class_id, box=_moved(thing.box, top=top, left=left)))
    return tuple(objects)


def place_apart(
    *, rng: Random, sizes: list[tuple[int, int]], tries: int = 24
) -> list[tuple[int, int]]:
    """(top, left) of each (height, width), at random, none overlapping another.

    Each in turn goes to the first of its random places that is free; where one finds none, all
    start again.
    """
    while True:
        placed: list[tuple[int, int, int, int]] = []  # top, left, bottom, right
        for height, width in sizes:
            for _ in range(tries):
                top, left = _below(rng, SIZE_PX + 1 - height), _below(rng, SIZE_PX + 1 - width)
                bottom, right = top + height, left + width
                if not any(
                    top < other[2] and other[0] < bottom and left < other[3] and other[1] < right
                    for other in placed
                ):
                    placed.append((top, left, bottom, right))
                    break
        if len(placed) == len(sizes):
            return [(top, left) for top, left, _, _ in placed]


def _moved(box: Box, *, top: int, left: int) -> Box:
    return Box(
        top=box.top + top, left=box.left + left, bottom=box.bottom + top, right=box.right + left
    )


def _light(picture: np.ndarray, *, rng: Random) -> np.ndarray:
    """The int16 picture under some light, with a little pixel noise, as uint8. Overwrites it."""
    gain, offset = _lighting(_below(rng, _LIGHTS))
    rows = picture.reshape(SIZE_PX, -1)  # long rows are fast
    rows *= gain
    rows += offset
    picture += _noise()[_random_window(rng, within_px=_NOISE_PX)]
    picture >>= 6
    return picture.clip(0, 255, out=picture).astype(np.uint8)


@cache
def _lighting(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Contrast, exposure and colour of a light.

    A gain and an offset, int16 [SIZE_PX * 3] (for one row of RGB pixels), both in 1 / 64.
    """
    rng = np.random.Generator(np.random.PCG64([_LIGHT_SEED, number]))
    gain = 64 * rng.integers(80, 111) * rng.integers(93, 108, size=3) // 100**2
    exposure = rng.integers(-14, 15)
    offset = 128 * (64 - gain) // 2 + 64 * exposure  # half way between black and mid grey stays
    return np.tile(gain.astype(np.int16), SIZE_PX), np.tile(offset.astype(np.int16), SIZE_PX)


@cache
def _noise() -> np.ndarray:
    """int16 [_NOISE_PX, _NOISE_PX, 3], in 1 / 64."""
    rng = np.random.Generator(np.random.PCG64(_NOISE_SEED))
    size = (_NOISE_PX, _NOISE_PX, 3)
    return rng.integers(-_NOISE_LEVEL, _NOISE_LEVEL + 1, size=size, dtype=np.int16) * np.int16(64)
