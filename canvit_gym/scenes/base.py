"""Scenes, and what every source of them provides: a picture, its label, and where that label is to
be seen.

Positions are always in (row, col) order.
"""

from dataclasses import dataclass
from typing import Any, Protocol

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


def require_scenes(source: Any) -> None:
    """Raise ValueError, in one sentence that says what is missing, unless `source` fulfils
    `Scenes`."""
    required = {"size_px": int, "class_names": tuple, "mask_class_names": tuple}
    problems = []
    for name, kind in required.items():
        if not hasattr(source, name):
            problems.append(f"has no {name}")
        elif not isinstance(getattr(source, name), kind):
            problems.append(f"has a {name} that is no {kind.__name__}")
    problems += [
        f"has no {name}" for name in ("__len__", "__getitem__") if not hasattr(source, name)
    ]
    if problems:
        raise ValueError(
            f"scenes is a {type(source).__name__}, which {' and '.join(problems)}; give a folder, "
            "or an object with size_px, class_names, mask_class_names, len() and [index]."
        )
    if len(source) < 1:
        raise ValueError(f"scenes is a {type(source).__name__} without any scene; give some.")
    scene = source[0]
    size = (source.size_px, source.size_px)
    if not isinstance(scene, Scene) or scene.picture.shape != (*size, 3):
        shown = tuple(scene.picture.shape) if isinstance(scene, Scene) else type(scene).__name__
        raise ValueError(
            f"The first of the scenes given is {shown}; give Scenes whose picture is uint8 "
            f"[{size[0]}, {size[1]}, 3], as their size_px says."
        )
    if scene.picture.dtype != np.uint8:
        raise ValueError(f"The scenes given have {scene.picture.dtype} pictures; give uint8.")
