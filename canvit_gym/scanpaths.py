"""Where glimpses went: measures of scanpaths, whatever chose them.

Viewpoints are [..., G, 3], (row, col, scale) in the scene frame [-1, 1]^2, in the order in which
they were taken: of many episodes, or of one. Rows of scale 0, after them, were not taken, as in
`Episode.history`; they count for nothing. `measures` says which glimpses each measure is of.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from canvit_gym.geometry import SAME_PLACE

SCALE_EDGES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Lower ends of the histogram's bins, upper ends excluded; the last one is the full scene's."""

ENTROPY_GRID = 8
"""Cells on a side of the grid over which `viewpoint_entropy` counts centres."""


def measures(viewpoints: np.ndarray, *, initial_glimpse: bool) -> dict[str, np.ndarray]:
    """All measures of each episode [..., T + 1, 3] by name, float64 [...].

    coverage, center_distance, entropy and scales (one more axis) are of chosen glimpses: without t0
    where `initial_glimpse` says that it was given. revisits and saccade_length start from t0 in any
    case. glimpses: how many were taken in all, int64.
    """
    chosen = viewpoints[..., int(initial_glimpse) :, :]
    return {
        "glimpses": _taken(viewpoints).sum(axis=-1),
        "coverage": coverage(chosen),
        "revisits": revisits(viewpoints),
        "saccade_length": saccade_length(viewpoints),
        "center_distance": center_distance(chosen),
        "entropy": viewpoint_entropy(chosen),
        "scales": scale_histogram(chosen),
    }


def mean_measures(viewpoints: np.ndarray, *, initial_glimpse: bool) -> dict[str, Any]:
    """The measures of N episodes [N, T + 1, 3] together, as JSON values.

    Means are over the episodes that have a value: two glimpses for revisits and saccade_length, a
    chosen one for center_distance. entropy and scales are over all glimpses of all episodes. None
    where there is nothing to measure.
    """
    chosen = viewpoints[..., int(initial_glimpse) :, :]
    several, some = _taken(viewpoints).sum(axis=-1) > 1, _taken(chosen).sum(axis=-1) > 0
    together = chosen.reshape(-1, 3)
    shares = scale_histogram(together).tolist() if some.any() else None
    return {
        "coverage": float(coverage(chosen).mean()),
        "revisits": _mean(revisits(viewpoints), of=several),
        "saccade_length": _mean(saccade_length(viewpoints), of=several),
        "center_distance": _mean(center_distance(chosen), of=some),
        "entropy": float(viewpoint_entropy(together)) if some.any() else None,
        "scales": {"edges": list(SCALE_EDGES), "share": shares},
    }


def coverage(viewpoints: np.ndarray) -> np.ndarray:
    """Share of the scene's area that at least one glimpse shows, exactly: float64 [...], 0 to 1.

    The edges of all crops cut the scene into a grid of rectangles, each wholly in or out of a crop.
    """
    row_sizes, in_rows = _strips(viewpoints[..., 0], viewpoints[..., 2])
    col_sizes, in_cols = _strips(viewpoints[..., 1], viewpoints[..., 2])
    covered = np.swapaxes(in_rows, -1, -2).astype(np.float32) @ in_cols.astype(np.float32) > 0
    area = (row_sizes[..., :, None] * col_sizes[..., None, :] * covered).sum(axis=(-2, -1))
    return area / 4


def revisits(viewpoints: np.ndarray) -> np.ndarray:
    """Share of the glimpses after the first whose centre lies in an earlier glimpse of at most
    their own scale, so in what was seen as closely before: float64 [...]; 0 where there is only
    one glimpse."""
    centers, scales = viewpoints[..., :2].astype(np.float64), viewpoints[..., 2].astype(np.float64)
    distance = np.abs(centers[..., :, None, :] - centers[..., None, :, :]).max(axis=-1)
    inside = distance <= scales[..., None, :] + SAME_PLACE  # [..., later, earlier]
    as_close = scales[..., None, :] <= scales[..., :, None] + SAME_PLACE
    earlier = np.tri(viewpoints.shape[-2], k=-1, dtype=bool)
    again = (inside & as_close & earlier).any(axis=-1)
    return _mean_taken(again[..., 1:], _taken(viewpoints)[..., 1:])


def saccade_length(viewpoints: np.ndarray) -> np.ndarray:
    """Mean distance of successive centres in scene units (the scene's side is 2): float64 [...]; 0
    where there is only one glimpse."""
    steps = np.diff(viewpoints[..., :2].astype(np.float64), axis=-2)
    return _mean_taken(np.linalg.norm(steps, axis=-1), _taken(viewpoints)[..., 1:])


def center_distance(viewpoints: np.ndarray) -> np.ndarray:
    """Mean distance of the centres from the scene's middle, in scene units: float64 [...]; 0 where
    there is no glimpse."""
    distances = np.linalg.norm(viewpoints[..., :2].astype(np.float64), axis=-1)
    return _mean_taken(distances, _taken(viewpoints))


def viewpoint_entropy(viewpoints: np.ndarray, *, grid: int = ENTROPY_GRID) -> np.ndarray:
    """Entropy in nats of the cell, of a grid x grid over the scene, that a centre falls into:
    float64 [...], 0 where all are in one cell, 2 log(grid) where evenly spread."""
    cells = ((viewpoints[..., :2].astype(np.float64) + 1) / 2 * grid).astype(np.int64)
    row, col = np.moveaxis(cells.clip(0, grid - 1), -1, 0)
    share = _shares(row * grid + col, _taken(viewpoints), bins=grid**2)
    return (share * np.log(1 / np.where(share > 0, share, 1))).sum(axis=-1)


def scale_histogram(viewpoints: np.ndarray) -> np.ndarray:
    """Share of the glimpses in each bin of SCALE_EDGES: float64 [..., bins], sums to 1, or to 0
    where there is no glimpse."""
    scales = viewpoints[..., 2].astype(np.float64) + SAME_PLACE  # 0.49999997 is a half
    bins = np.searchsorted(SCALE_EDGES, scales, side="right") - 1
    return _shares(bins, _taken(viewpoints), bins=len(SCALE_EDGES))


def _taken(viewpoints: np.ndarray) -> np.ndarray:
    """Which rows are glimpses: bool [..., G]."""
    return viewpoints[..., 2] > 0


def _mean(values: np.ndarray, *, of: np.ndarray) -> float | None:
    return float(values[of].mean()) if of.any() else None


def _mean_taken(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Means over the last axis of the values that were taken; 0 where none was."""
    return (values * taken).sum(axis=-1) / taken.sum(axis=-1).clip(1)


def _shares(bins_of: np.ndarray, taken: np.ndarray, *, bins: int) -> np.ndarray:
    """How the taken ones of [..., G] are shared out among the bins: float64 [..., bins]."""
    shape = bins_of.shape[:-1]
    where = np.arange(np.prod(shape, dtype=int)).reshape(*shape, 1) * bins + bins_of
    counts = np.bincount(where[taken], minlength=np.prod(shape, dtype=int) * bins)
    counts = counts.reshape(*shape, bins)
    return counts / counts.sum(axis=-1, keepdims=True).clip(1)


def _strips(centers: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strips that the 2 G edges along one axis cut it into: sizes [..., 2 G - 1] of the strips, and
    which crops [..., G, 2 G - 1] they lie in."""
    low = (centers - scales).astype(np.float64)[..., None].clip(-1, 1)
    high = (centers + scales).astype(np.float64)[..., None].clip(-1, 1)
    edges = np.sort(np.concatenate((low, high), axis=-2), axis=-2)[..., 0]
    middles = ((edges[..., 1:] + edges[..., :-1]) / 2)[..., None, :]
    return np.diff(edges, axis=-1), (low < middles) & (middles < high)
