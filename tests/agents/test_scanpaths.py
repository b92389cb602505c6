"""Scanpath measures on cases worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from agents.scanpaths import (
    SCALE_EDGES,
    center_distance,
    coverage,
    measures,
    revisits,
    saccade_length,
    scale_histogram,
    viewpoint_entropy,
)

FULL = (0.0, 0.0, 1.0)
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


def test_entropy_is_of_cells_over_all_episodes() -> None:
    assert viewpoint_entropy(path(FULL, FULL)) == 0
    assert viewpoint_entropy(path(*QUARTERS), grid=2) == pytest.approx(math.log(4))
    assert viewpoint_entropy(path(*QUARTERS)[:, None], grid=2) == pytest.approx(math.log(4))
    three_to_one = path(QUARTERS[0], QUARTERS[0], QUARTERS[0], QUARTERS[1])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert viewpoint_entropy(three_to_one, grid=2) == pytest.approx(expected)
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


def test_measures_leave_out_a_glimpse_that_was_given() -> None:
    episodes = np.stack((path(FULL, *QUARTERS[:2]), path(FULL, *QUARTERS[2:])))
    given = measures(episodes, initial_glimpse=True)
    assert given["coverage"] == 0.5 and given["revisits"] == 0
    assert given["scales"]["share"] == [0, 0, 0, 0, 1, 0]
    assert given["saccade_length"] == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert given["center_distance"] == pytest.approx(math.sqrt(0.5))
    assert given["entropy"] == pytest.approx(math.log(4))
    chosen = measures(episodes, initial_glimpse=False)
    assert chosen["coverage"] == 1
    assert chosen["scales"]["share"][-1] == pytest.approx(1 / 3)
    json.dumps(given, allow_nan=False)
