"""Scanpath measures on cases worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from canvit_gym.scanpaths import (
    SCALE_EDGES,
    center_distance,
    coverage,
    mean_measures,
    measures,
    revisits,
    saccade_length,
    scale_histogram,
    viewpoint_entropy,
)

FULL = (0.0, 0.0, 1.0)
NONE = (0.0, 0.0, 0.0)
QUARTERS = [(r, c, 0.5) for r in (-0.5, 0.5) for c in (-0.5, 0.5)]


def path(*viewpoints: tuple[float, float, float]) -> np.ndarray:
    return np.array(viewpoints, dtype=np.float32)


@pytest.mark.parametrize(
    ("viewpoints", "expected"),
    [
        ([FULL], 1.0),
        (QUARTERS, 1.0),
        (QUARTERS[:1], 0.25),
        ([QUARTERS[0], QUARTERS[0]], 0.25),
        ([QUARTERS[0], QUARTERS[3]], 0.5),
        ([QUARTERS[0], (0.0, -0.5, 0.5)], 0.375),  # half of the second is new
        ([(0.0, 0.0, 0.5), (0.0, 0.0, 0.25)], 0.25),  # one in the other
        ([(-0.5, 0.0, 0.5), (0.0, 0.0, 0.25)], 0.25 + 0.0625 / 2),
        ([(0.5, 0.0, 0.5), (0.0, 0.0, 0.25), (-0.75, -0.75, 0.25)], 0.25 + 0.0625 * 1.5),
    ],
)
def test_coverage_is_exact(viewpoints: list, expected: float) -> None:
    assert coverage(path(*viewpoints)) == pytest.approx(expected, abs=1e-7)


def test_coverage_agrees_with_counting() -> None:
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.1, 1, (5, 4))
    centers = rng.uniform(-1, 1, (5, 4, 2)) * (1 - scales)[..., None]
    viewpoints = np.concatenate((centers, scales[..., None]), axis=-1)
    ticks = (np.arange(1000) + 0.5) / 500 - 1
    for one, found in zip(viewpoints, coverage(viewpoints), strict=True):
        inside = [
            (np.abs(ticks - row) < scale)[:, None] & (np.abs(ticks - col) < scale)
            for row, col, scale in one
        ]
        assert found == pytest.approx(np.any(inside, axis=0).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("viewpoints", "expected"),
    [
        ([FULL], 0.0),
        ([FULL, FULL, FULL], 1.0),
        ([FULL, *QUARTERS], 0.0),  # the full scene was seen less closely
        ([FULL, QUARTERS[0], QUARTERS[0]], 0.5),
        ([QUARTERS[0], FULL], 1.0),  # a centre on the edge counts as inside
        ([(-0.55, -0.5, 0.5), FULL], 0.0),
        ([QUARTERS[0], (-0.25, -0.25, 0.25)], 0.0),  # in what was seen less closely
        ([(-0.25, -0.25, 0.25), (-0.5, -0.4, 0.5)], 1.0),
        ([(-0.25, -0.25, 0.25), (-0.5, -0.51, 0.5)], 0.0),
    ],
)
def test_revisits(viewpoints: list, expected: float) -> None:
    assert revisits(path(*viewpoints)) == pytest.approx(expected)


def test_saccades_and_distances() -> None:
    one = path(FULL, (0.3, 0.4, 0.5), (0.3, -0.4, 0.5))
    assert saccade_length(one) == pytest.approx((0.5 + 0.8) / 2)
    assert center_distance(one) == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert saccade_length(path(FULL)) == 0
    both = np.stack((one, path(FULL, FULL, FULL)))
    np.testing.assert_allclose(saccade_length(both), [0.65, 0], atol=1e-6)
    np.testing.assert_allclose(center_distance(both), [1 / 3, 0], atol=1e-6)


def test_entropy_is_of_the_cells_that_centres_fall_into() -> None:
    assert viewpoint_entropy(path(FULL, FULL)) == 0
    assert viewpoint_entropy(path(*QUARTERS), grid=2) == pytest.approx(math.log(4))
    three_to_one = path(QUARTERS[0], QUARTERS[0], QUARTERS[0], QUARTERS[1])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert viewpoint_entropy(three_to_one, grid=2) == pytest.approx(expected)
    both = np.stack((path(*QUARTERS), three_to_one))
    np.testing.assert_allclose(viewpoint_entropy(both, grid=2), [math.log(4), expected])
    # Rows and columns are not mixed up, and the far edge belongs to the last cell.
    corners = path((-1, 1, 0.1), (1, -1, 0.1))
    assert viewpoint_entropy(corners) == pytest.approx(math.log(2))


def test_scales() -> None:
    share = scale_histogram(path(FULL, (0, 0, 0.5), (0, 0, 0.49), (0, 0, 0.05)))
    assert dict(zip(SCALE_EDGES, share, strict=True)) == {
        0.0: 0.25, 1 / 16: 0, 1 / 8: 0, 1 / 4: 0.25, 1 / 2: 0.25, 1.0: 0.25,
    }  # fmt: skip
    nearly = np.float32(0.5) - np.float32(1e-7)
    assert scale_histogram(path((0, 0, nearly)))[4] == 1


def test_each_measure_is_of_its_glimpses() -> None:
    """Rows that were not taken change nothing, and a t0 that was given is no choice."""
    shorter, stopped = path(FULL, *QUARTERS[:2]), path(FULL, *QUARTERS[:2], NONE, NONE)
    at_once, blind = path(FULL, NONE), path(NONE, NONE)
    found = measures(stopped, initial_glimpse=True)
    for name, value in measures(shorter, initial_glimpse=True).items():
        np.testing.assert_allclose(found[name], value, err_msg=name)
    assert found["glimpses"] == 3 and found["coverage"] == 0.5 and found["revisits"] == 0
    assert found["saccade_length"] == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert found["center_distance"] == pytest.approx(math.sqrt(0.5))
    assert found["entropy"] == pytest.approx(math.log(2))
    assert found["scales"].tolist() == [0, 0, 0, 0, 1, 0]
    assert measures(stopped, initial_glimpse=False)["coverage"] == 1
    for glimpses, nothing in ((1, measures(at_once, initial_glimpse=True)),
                              (0, measures(blind, initial_glimpse=False))):  # fmt: skip
        assert nothing.pop("glimpses") == glimpses
        assert all(not np.any(value) for value in nothing.values())


def test_measures_are_of_one_episode_each() -> None:
    rng = np.random.default_rng(0)
    viewpoints = (rng.random((6, 5, 3)) / 2).astype(np.float32)
    viewpoints[2, 3:] = viewpoints[4, 1:] = 0
    together = measures(viewpoints, initial_glimpse=True)
    assert together["glimpses"].tolist() == [5, 5, 3, 5, 1, 5]
    for i, one in enumerate(viewpoints):
        for name, value in measures(one, initial_glimpse=True).items():
            np.testing.assert_allclose(together[name][i], value, err_msg=name)


def test_means_over_episodes() -> None:
    episodes = np.stack((path(FULL, *QUARTERS[:2]), path(FULL, *QUARTERS[2:])))
    given = mean_measures(episodes, initial_glimpse=True)
    assert given["coverage"] == 0.5 and given["revisits"] == 0
    assert given["scales"]["share"] == [0, 0, 0, 0, 1, 0]
    assert given["saccade_length"] == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert given["center_distance"] == pytest.approx(math.sqrt(0.5))
    assert given["entropy"] == pytest.approx(math.log(4))
    chosen = mean_measures(episodes, initial_glimpse=False)
    assert chosen["coverage"] == 1
    assert chosen["scales"]["share"][-1] == pytest.approx(1 / 3)
    json.dumps(given, allow_nan=False)


def test_means_leave_out_episodes_without_a_value() -> None:
    moved, stopped = path(FULL, *QUARTERS[:2]), path(FULL, NONE, NONE)
    alone = mean_measures(moved[None], initial_glimpse=True)
    both = mean_measures(np.stack((moved, stopped)), initial_glimpse=True)
    assert both == {**alone, "coverage": alone["coverage"] / 2}  # it did see nothing of its choice
    nothing = mean_measures(stopped[None], initial_glimpse=True)
    assert nothing["coverage"] == 0 and nothing["scales"]["share"] is None
    assert {nothing[key] for key in ("revisits", "saccade_length", "entropy")} == {None}
    json.dumps(nothing, allow_nan=False)
