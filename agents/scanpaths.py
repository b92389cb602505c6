"""Where glimpses went: measures of scanpaths, whatever chose them.

Viewpoints are [..., G, 3], (row, col, scale) in the scene frame [-1, 1]^2, in the order in which
they were taken: of many episodes, or of one. `measures` says which glimpses each measure is of.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SCALE_EDGES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Lower ends of the histogram's bins, upper ends excluded; the last one is the full scene's."""

ENTROPY_GRID = 8
"""Cells on a side of the grid over which `viewpoint_entropy` counts centres."""

_SAME = 1e-4  # two numbers closer than this, in scene units, are the same


def measures(viewpoints: np.ndarray, *, initial_glimpse: bool) -> dict[str, Any]:
    """All measures of N episodes [N, T + 1, 3] as JSON values, means over episodes.

    coverage, center_distance, entropy and scales are of chosen glimpses: without t0 where
    `initial_glimpse` says that it was given. revisits and saccade_length start from t0 in any case.
    """
    chosen = viewpoints[:, 1:] if initial_glimpse else viewpoints
    return {
        "coverage": float(coverage(chosen).mean()),
        "revisits": float(revisits(viewpoints).mean()),
        "saccade_length": float(saccade_length(viewpoints).mean()),
        "center_distance": float(center_distance(chosen).mean()),
        "entropy": float(viewpoint_entropy(chosen)),
        "scales": {"edges": list(SCALE_EDGES), "share": scale_histogram(chosen).tolist()},
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
    count = viewpoints.shape[-2]
    if count < 2:
        return np.zeros(viewpoints.shape[:-2])
    centers, scales = viewpoints[..., :2].astype(np.float64), viewpoints[..., 2].astype(np.float64)
    distance = np.abs(centers[..., :, None, :] - centers[..., None, :, :]).max(axis=-1)
    inside = distance <= scales[..., None, :] + _SAME  # [..., later, earlier]
    as_close = scales[..., None, :] <= scales[..., :, None] + _SAME
    earlier = np.tri(count, k=-1, dtype=bool)
    return (inside & as_close & earlier).any(axis=-1)[..., 1:].mean(axis=-1)


def saccade_length(viewpoints: np.ndarray) -> np.ndarray:
    """Mean distance of successive centres in scene units (the scene's side is 2): float64 [...]; 0
    where there is only one glimpse."""
    if viewpoints.shape[-2] < 2:
        return np.zeros(viewpoints.shape[:-2])
    steps = np.diff(viewpoints[..., :2].astype(np.float64), axis=-2)
    return np.linalg.norm(steps, axis=-1).mean(axis=-1)


def center_distance(viewpoints: np.ndarray) -> np.ndarray:
    """Mean distance of the centres from the scene's middle, in scene units: float64 [...]."""
    return np.linalg.norm(viewpoints[..., :2].astype(np.float64), axis=-1).mean(axis=-1)


def viewpoint_entropy(viewpoints: np.ndarray, *, grid: int = ENTROPY_GRID) -> float:
    """Entropy in nats of the cell, of a grid x grid over the scene, that a centre falls into, over
    all glimpses of all episodes: 0 where all are in one cell, 2 log(grid) where evenly spread."""
    cells = ((viewpoints[..., :2].astype(np.float64) + 1) / 2 * grid).astype(np.int64)
    row, col = np.moveaxis(cells.clip(0, grid - 1).reshape(-1, 2), -1, 0)
    counts = np.bincount(row * grid + col, minlength=grid * grid)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def scale_histogram(viewpoints: np.ndarray) -> np.ndarray:
    """Share of all glimpses in each bin of SCALE_EDGES: float64 [bins], sums to 1."""
    scales = viewpoints[..., 2].astype(np.float64).ravel() + _SAME  # 0.49999997 is a half
    counts = np.bincount(np.searchsorted(SCALE_EDGES, scales, side="right") - 1)
    return np.pad(counts, (0, len(SCALE_EDGES) - len(counts))) / len(scales)


def _strips(centers: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the 2 G edges along one axis cut it into: sizes [..., 2 G - 1] of the strips, and which
    crops [..., G, 2 G - 1] they lie in."""
    low = (centers - scales).astype(np.float64)[..., None].clip(-1, 1)
    high = (centers + scales).astype(np.float64)[..., None].clip(-1, 1)
    edges = np.sort(np.concatenate((low, high), axis=-2), axis=-2)[..., 0]
    middles = ((edges[..., 1:] + edges[..., :-1]) / 2)[..., None, :]
    return np.diff(edges, axis=-1), (low < middles) & (middles < high)
