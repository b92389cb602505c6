"""Colours for pictures of segmentation: one for each class, and a scale for heat maps."""

from __future__ import annotations

from functools import cache

import numpy as np

IGNORED = (128, 128, 128)
"""Where a mask says nothing. No class is near a grey."""

_LIGHTNESS, _CHROMA = (0.4, 0.9), (0.04, 0.2)
"""Ranges of class colours in OKLab: neither black nor white, neither grey nor glaring."""

_MAGMA = np.array(
    [
        *((0, 0, 4), (10, 8, 34), (29, 17, 71), (54, 16, 107), (81, 18, 124), (106, 28, 129)),
        *((131, 38, 129), (156, 46, 127), (183, 55, 121), (207, 64, 112), (229, 80, 100)),
        *((244, 105, 92), (251, 135, 97), (254, 165, 113), (254, 194, 135), (253, 224, 161)),
        (252, 253, 191),
    ]
)
"""17 evenly spaced colours of matplotlib's perceptually uniform scale (CC0); what lies between
them is at most 3 of 255 off where it is interpolated."""


@cache
def class_colours(num_classes: int) -> np.ndarray:
    """uint8 [num_classes, 3], read-only; each colour is the one farthest from all before it.

    So they are well apart for any number of classes, the first ones most, and a class keeps its
    colour where others follow. Two of 47 are at least 0.09 apart in OKLab, two of 150 0.05.
    """
    levels = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    candidates = candidates.reshape(-1, 3)
    lab = oklab(candidates)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    usable = (_LIGHTNESS[0] <= lightness) & (lightness <= _LIGHTNESS[1])
    usable &= (_CHROMA[0] <= chroma) & (chroma <= _CHROMA[1])
    candidates, lab = candidates[usable], lab[usable]

    nearest = np.linalg.norm(lab - oklab(np.array(IGNORED)), axis=1)
    chosen = np.empty(num_classes, dtype=np.int64)
    for i in range(num_classes):
        chosen[i] = nearest.round(6).argmax()  # rounded: ties break alike on every machine
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[chosen[i]], axis=1))
    colours = candidates[chosen].astype(np.uint8)
    colours.flags.writeable = False
    return colours


def heat(levels: np.ndarray) -> np.ndarray:
    """Colours of levels from 0 (black) to 1 (pale yellow), [...]: uint8 [..., 3]."""
    stops = np.linspace(0, 1, len(_MAGMA))
    channels = [np.interp(levels, stops, _MAGMA[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB colours 0 .. 255, [..., 3], as (lightness, a, b), float64 [..., 3], in which equal
    distances look about equally large (Ottosson, 2020)."""
    values = rgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(
        linear
        @ np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
    )
    return cones @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
