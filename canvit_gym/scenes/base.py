"""What every source of scenes provides: a picture, its label, and where that label is to be seen.

Positions are always in (row, col) order.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

IGNORE = 255
"""Mask value of pixels that belong to no class: neither scored nor trained on."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A half-open rectangle of pixels: rows top .. bottom - 1, columns left .. right - 1."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One whole thing in a scene.

    `class_id` has the meaning of a mask value (an index into `Scenes.mask_class_names`); for
    generated scenes it equals `Scene.label` where the object is the labelled thing.
    `box` is the tight box around its pixels.
    """

    class_id: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One square picture and what is known about it.

    name: unique over all scene sources and splits, such as "emoji/test/17".
    picture: uint8 [H, W, 3], RGB, 0 .. 255, with H == W == the source's `size_px`.
    label: class of the scene, an index into `Scenes.class_names`; -1 where the scene as a whole has
        no class.
    mask: uint8 [H, W], class of each pixel, an index into `Scenes.mask_class_names`, or `IGNORE`;
        None where there is no mask.
    target: where the labelled thing is, in pixels of `picture`; None where unknown.
    objects: every whole object, the target among them; empty where unknown.
    depth: float32 [H, W], how far away each pixel is, above 0, in the unit of its source, NaN where
        unknown; None where there is no depth, or it was not asked for.
    """

    name: str
    picture: np.ndarray
    label: int
    mask: np.ndarray | None
    target: Box | None
    objects: tuple[SceneObject, ...] = ()
    depth: np.ndarray | None = None


class Scenes(Protocol):
    """A finite, indexable, deterministic set of scenes.

    size_px: side of every picture and mask, in pixels.
    class_names: what `Scene.label` indexes; () where scenes have no class.
    mask_class_names: what mask values index; () where scenes have no masks.

    Scenes may also have `exchangeable = True`, which says that any run of indices is as good a
    sample as another, as of generated scenes. Evaluation takes the first ones of such scenes, and
    evenly spaced ones of all others, which may be sorted.

    `scenes[index]` takes 0 .. len - 1, returns equal scenes for equal indices whatever was asked
    before, and raises IndexError beyond that range. Threads may ask at the same time.
    """

    size_px: int
    class_names: tuple[str, ...]
    mask_class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...
