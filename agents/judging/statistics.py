"""How sure a number is: paired bootstrap intervals over scenes.

Policies are compared on the same scenes, and every bootstrap of as many scenes draws the same ones,
so what one scene does to both policies cancels in their difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95

_CHUNK = 2_000_000  # scene draws, and sums of counts, at a time: 16 MB each


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts whose ratios make a metric: numerators and denominators, [scenes, steps, K].

    The metric at a step is the mean over K of (numerators summed over scenes) / (denominators
    summed over scenes). Entries that no scene has, with a sum of 0 below, are left out of the mean;
    where that leaves none, it is NaN. The accuracy has K = 1 and denominators of 1; the mean IoU
    has one entry for each class.
    """

    numerators: np.ndarray
    denominators: np.ndarray

    def __post_init__(self) -> None:
        if self.numerators.shape != self.denominators.shape or self.numerators.ndim != 3:
            raise ValueError(
                f"Numerators and denominators have shapes {self.numerators.shape} and "
                f"{self.denominators.shape}; give [scenes, steps, K] for both."
            )
        if not len(self.numerators):
            raise ValueError("There are no scenes to average over; give at least one.")

    @classmethod
    def of_means(cls, values: np.ndarray) -> Tally:
        """The mean over scenes of values [scenes, steps]."""
        numerators = values.astype(np.float64)[..., None]
        return cls(numerators=numerators, denominators=np.ones_like(numerators))

    def at(self, steps: np.ndarray) -> Tally:
        """After steps that each scene has of its own: int64 [scenes, ...]; P of them make P steps
        of the result."""
        where = steps[..., None]
        return Tally(
            numerators=np.take_along_axis(self.numerators, where, axis=1),
            denominators=np.take_along_axis(self.denominators, where, axis=1),
        )

    @property
    def value(self) -> np.ndarray:
        """The metric after each step: float64 [steps]."""
        return _mean_ratio(
            self.numerators.sum(axis=0, dtype=np.float64),
            self.denominators.sum(axis=0, dtype=np.float64),
        )


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """A metric, and what it is on scenes drawn anew.

    value: float64 [...]. resampled: float64 [resamples, ...]. num_scenes: how many were drawn from.
    """

    value: np.ndarray
    resampled: np.ndarray
    num_scenes: int

    def at(self, step: int) -> Bootstrap:
        """After one of the steps only."""
        return Bootstrap(
            value=self.value[step], resampled=self.resampled[:, step], num_scenes=self.num_scenes
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic and its percentile interval, arrays of equal shape.

    low and high are NaN where the statistic is undefined on too many draws of the scenes to tell:
    a share of the way where the way itself is unsure.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(tally: Tally, *, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """The metric on `resamples` draws of the scenes with replacement.

    The draws depend only on the number of scenes, the number of resamples and the seed.
    """
    known = (tally.denominators > 0).any(axis=(0, 1))  # what no scene has, no draw has
    num_scenes, num_steps, width = tally.numerators[..., known].shape
    shape = (num_scenes, num_steps * width)
    numerators = tally.numerators[..., known].reshape(shape).astype(np.float64)
    denominators = tally.denominators[..., known].reshape(shape).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(*shape, 1))
    resampled = np.empty((resamples, num_steps))
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        counts = _draw_counts(rng, stop - start, num_scenes)
        resampled[start:stop] = _mean_ratio(
            (counts @ numerators).reshape(-1, num_steps, width),
            (counts @ denominators).reshape(-1, num_steps, width),
        )
    return Bootstrap(value=tally.value, resampled=resampled, num_scenes=num_scenes)


def paired_difference(first: Bootstrap, second: Bootstrap) -> Estimate:
    """first - second, on the same scenes in the same order."""
    _require_same_scenes(first, second)
    return _estimate(first.value - second.value, first.resampled - second.resampled)


def share_of_the_way(values: Bootstrap, *, base: Bootstrap, upper: Bootstrap) -> Estimate:
    """How far `values` get from `base` (0) to `upper` (1), each after one step.

    Where `upper` is not above `base` there is no way to go: NaN.
    """
    _require_same_scenes(values, base, upper)
    return _estimate(
        _share(values.value, base.value, upper.value),
        _share(values.resampled, base.resampled, upper.resampled),
    )


def _share(value: np.ndarray, base: np.ndarray, upper: np.ndarray) -> np.ndarray:
    way = upper - base
    return (value - base) / np.where(way > 0, way, np.nan)


def _require_same_scenes(*bootstraps: Bootstrap) -> None:
    first = bootstraps[0]
    for other in bootstraps[1:]:
        if (first.num_scenes, first.resampled.shape) != (other.num_scenes, other.resampled.shape):
            raise ValueError(
                f"One policy has {first.num_scenes} scenes and resamples {first.resampled.shape}, "
                f"another {other.num_scenes} and {other.resampled.shape}; give the same scenes, "
                "steps and number of resamples for both."
            )


def _estimate(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    # A few scenes drawn again and again may leave no class, or no way to go.
    known = resampled[np.isfinite(resampled).reshape(len(resampled), -1).all(axis=1)]
    tail = (1 - CONFIDENCE) / 2
    if len(known) < (1 - tail) * len(resampled) or not np.isfinite(value).all():
        nothing = np.full_like(value, np.nan)
        return Estimate(value=value, low=nothing, high=nothing)
    low, high = np.quantile(known, (tail, 1 - tail), axis=0)
    return Estimate(value=value, low=low, high=high)


def _mean_ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the ratios whose denominators are not 0."""
    present = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=present)
    counts = present.sum(axis=-1)
    return ratios.sum(axis=-1) / np.where(counts == 0, np.nan, counts)


def _draw_counts(rng: np.random.Generator, rows: int, num_scenes: int) -> np.ndarray:
    """How often each scene is drawn in each resample: float64 [rows, scenes]."""
    drawn = rng.integers(num_scenes, size=(rows, num_scenes))
    drawn += np.arange(rows)[:, None] * num_scenes
    counts = np.bincount(drawn.ravel(), minlength=rows * num_scenes)
    return counts.reshape(rows, num_scenes).astype(np.float64)
