"""How sure a difference is: paired bootstrap intervals over scenes.

Policies are compared on the same scenes, so what one scene does to both cancels in the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95

_CHUNK = 2_000_000  # scene draws at a time: 16 MB


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic and its percentile interval, arrays of equal shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of first - second, both [scenes, ...], over the same scenes in the same order."""
    if first.shape != second.shape:
        raise ValueError(
            f"Paired values have shapes {first.shape} and {second.shape}; "
            "give the same scenes and steps for both."
        )
    differences = first.astype(np.float64) - second.astype(np.float64)
    means = resampled_means(differences, resamples=resamples, seed=seed)
    return _estimate(differences.mean(axis=0), means)


def share_of_the_way(
    values: np.ndarray,
    *,
    base: np.ndarray,
    upper: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How far `values` get from `base` (0) to `upper` (1), on average: each [scenes].

    Where the means of `upper` and `base` are equal there is no way to go: NaN.
    """
    stacked = np.stack((values, base, upper), axis=1).astype(np.float64)
    share = _share(stacked.mean(axis=0))
    resampled = _share(resampled_means(stacked, resamples=resamples, seed=seed))
    # A few scenes drawn again and again may leave no way to go.
    resampled = resampled[np.isfinite(resampled)]
    if np.isnan(share) or not len(resampled):
        return Estimate(value=share, low=np.array(np.nan), high=np.array(np.nan))
    return _estimate(share, resampled)


def _share(means: np.ndarray) -> np.ndarray:
    value, base, upper = np.moveaxis(means, -1, 0)
    way = upper - base
    return (value - base) / np.where(way == 0, np.nan, way)


def _estimate(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail), axis=0)
    return Estimate(value=value, low=low, high=high)


def resampled_means(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means over scenes drawn anew with replacement: [scenes, ...] -> float64 [resamples, ...].

    The draws depend only on the number of scenes, the number of resamples and the seed.
    """
    num_scenes = len(values)
    if num_scenes == 0:
        raise ValueError("There are no scenes to resample; give at least one.")
    flat = values.reshape(num_scenes, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // num_scenes)
    means = np.empty((resamples, flat.shape[1]))
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = _draw_counts(rng, stop - start, num_scenes) @ flat
    return (means / num_scenes).reshape(resamples, *values.shape[1:])


def _draw_counts(rng: np.random.Generator, rows: int, num_scenes: int) -> np.ndarray:
    """How often each scene is drawn in each resample: float64 [rows, scenes]."""
    drawn = rng.integers(num_scenes, size=(rows, num_scenes))
    drawn += np.arange(rows)[:, None] * num_scenes
    counts = np.bincount(drawn.ravel(), minlength=rows * num_scenes)
    return counts.reshape(rows, num_scenes).astype(np.float64)
