"""Intervals against answers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from agents.statistics import paired_difference, resampled_means, share_of_the_way


def test_a_constant_difference_has_no_width() -> None:
    second = np.random.default_rng(0).random((50, 3))
    estimate = paired_difference(second + 0.25, second, resamples=200)
    for values in (estimate.value, estimate.low, estimate.high):
        np.testing.assert_allclose(values, 0.25)
        assert values.shape == (3,)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, inside = 0.3, []
    for simulation in range(300):
        first, second = rng.normal(truth, 1, 80), rng.normal(0, 1, 80)
        estimate = paired_difference(first, second, resamples=400, seed=simulation)
        inside.append(estimate.low <= truth <= estimate.high)
    assert 0.91 <= np.mean(inside) <= 0.985  # 0.95 within 3 standard errors of 300 simulations


def test_the_width_is_that_of_a_mean() -> None:
    differences = np.random.default_rng(1).normal(0, 2, 1000)
    estimate = paired_difference(differences, np.zeros(1000))
    expected = 2 * 1.96 * differences.std() / np.sqrt(1000)
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.05)


def test_pairing_takes_out_what_scenes_share() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(0, 1, 300)
    first = difficulty + rng.normal(0.1, 0.2, 300)
    second = difficulty + rng.normal(0, 0.2, 300)
    paired = paired_difference(first, second)
    unpaired = paired_difference(first, rng.permutation(second))
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)


def test_steps_are_resampled_together_and_reproducibly() -> None:
    values = np.random.default_rng(3).random((40, 2, 5)) < 0.5
    one = resampled_means(values, resamples=100, seed=4)
    assert one.shape == (100, 2, 5)
    np.testing.assert_array_equal(one, resampled_means(values, resamples=100, seed=4))
    np.testing.assert_allclose(
        one[:, 1, 2], resampled_means(values[:, 1, 2], resamples=100, seed=4)
    )
    assert not np.array_equal(one, resampled_means(values, resamples=100, seed=5))


def test_many_scenes_need_several_chunks() -> None:
    values = np.random.default_rng(5).normal(1, 1, 300_000)
    means = resampled_means(values, resamples=10, seed=0)
    assert np.abs(means - values.mean()).max() < 5 / np.sqrt(len(values))
    assert len(np.unique(means)) == 10


def test_share_of_the_way() -> None:
    base, upper = np.zeros(100), np.ones(100)
    middle = np.repeat([0, 1], [40, 60])
    estimate = share_of_the_way(middle, base=base, upper=upper)
    assert estimate.value == pytest.approx(0.6)
    assert 0.45 < estimate.low < 0.6 < estimate.high < 0.75
    assert np.isnan(share_of_the_way(middle, base=upper, upper=upper).value)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least one"):
        resampled_means(np.zeros((0, 2)), resamples=10, seed=0)
