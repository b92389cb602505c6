"""Intervals against answers that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import canvit_agents.judging.statistics
from canvit_agents.judging.statistics import (
    Bootstrap,
    Estimate,
    Tally,
    bootstrap,
    paired_difference,
    share_of_the_way,
)


def means(values: np.ndarray, **kwargs: Any) -> Bootstrap:
    """The bootstrap of a mean over scenes after one step or several."""
    return bootstrap(Tally.of_means(values.reshape(len(values), -1)), **kwargs)


def difference(first: np.ndarray, second: np.ndarray, **kwargs: Any) -> Estimate:
    return paired_difference(means(first, **kwargs), means(second, **kwargs))


def test_a_constant_difference_has_no_width() -> None:
    second = np.random.default_rng(0).random((50, 3))
    estimate = difference(second + 0.25, second, resamples=200)
    for values in (estimate.value, estimate.low, estimate.high):
        np.testing.assert_allclose(values, 0.25)
        assert values.shape == (3,)


def test_the_interval_of_a_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, inside = 0.3, []
    for simulation in range(300):
        first, second = rng.normal(truth, 1, 80), rng.normal(0, 1, 80)
        estimate = difference(first, second, resamples=400, seed=simulation)
        inside.append(bool(estimate.low <= truth <= estimate.high))
    assert 0.91 <= np.mean(inside) <= 0.985  # 0.95 within 3 standard errors of 300 simulations


def test_the_interval_of_a_mean_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    """Scenes have some of three classes each, in areas of very different size; the policies find
    known shares of them."""
    rng = np.random.default_rng(1)
    shares = np.array([[0.7, 0.45, 0.3], [0.55, 0.45, 0.2]])
    truth, inside = float((shares[0] - shares[1]).mean()), []
    for simulation in range(300):
        union = rng.integers(1, 500, (80, 3)) * (rng.random((80, 3)) < (0.9, 0.5, 0.3))
        ease = rng.uniform(2 / 3, 4 / 3, (80, 3))  # 1 on average, and the same for both
        one, other = (
            bootstrap(
                Tally(
                    numerators=rng.binomial(union, share * ease)[:, None],
                    denominators=union[:, None],
                ),
                resamples=400,
                seed=simulation,
            )
            for share in shares
        )
        estimate = paired_difference(one, other)
        inside.append(bool(estimate.low <= truth <= estimate.high))
    assert 0.91 <= np.mean(inside) <= 0.985


def test_the_width_is_that_of_a_mean() -> None:
    differences = np.random.default_rng(1).normal(0, 2, 1000)
    estimate = difference(differences, np.zeros(1000))
    expected = 2 * 1.96 * differences.std() / np.sqrt(1000)
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.05)


def test_pairing_takes_out_what_scenes_share() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(0, 1, 300)
    first = difficulty + rng.normal(0.1, 0.2, 300)
    second = difficulty + rng.normal(0, 0.2, 300)
    paired = difference(first, second)
    unpaired = difference(first, rng.permutation(second))
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)


def test_ratios_are_of_sums_and_absent_classes_do_not_count() -> None:
    # Two scenes, one step, three classes: 5 of 10 and 1 of 2, 0 of 8, and a class nobody has.
    tally = Tally(
        numerators=np.array([[[5, 0, 0]], [[1, 0, 0]]]),
        denominators=np.array([[[10, 0, 0]], [[2, 8, 0]]]),
    )
    assert tally.value.tolist() == [(6 / 12 + 0 / 8) / 2]
    drawn = np.unique(bootstrap(tally, resamples=200).resampled)
    # Only the first scene: one class, 5 / 10; both; only the second: (1 / 2 + 0) / 2.
    np.testing.assert_allclose(drawn, [0.25, 0.5])
    nothing = Tally(numerators=np.zeros((2, 1, 3)), denominators=np.zeros((2, 1, 3)))
    assert np.isnan(nothing.value).all()


def test_steps_are_resampled_together_and_reproducibly() -> None:
    values = np.random.default_rng(3).random((40, 5)) < 0.5
    one = means(values, resamples=100, seed=4)
    assert one.resampled.shape == (100, 5) and one.value.shape == (5,)
    np.testing.assert_array_equal(one.resampled, means(values, resamples=100, seed=4).resampled)
    alone = means(values[:, 2], resamples=100, seed=4)
    np.testing.assert_allclose(one.at(2).resampled, alone.at(0).resampled)
    assert not np.array_equal(one.resampled, means(values, resamples=100, seed=5).resampled)


def test_draws_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    tally = Tally(numerators=rng.random((7, 3, 4)), denominators=1 + rng.random((7, 3, 4)))
    whole = bootstrap(tally, resamples=50).resampled
    monkeypatch.setattr(canvit_agents.judging.statistics, "_CHUNK", 36)  # three resamples at a time
    np.testing.assert_allclose(bootstrap(tally, resamples=50).resampled, whole)


def test_many_scenes_need_several_chunks() -> None:
    values = np.random.default_rng(5).normal(1, 1, 300_000)
    resampled = means(values, resamples=10, seed=0).resampled
    assert np.abs(resampled - values.mean()).max() < 5 / np.sqrt(len(values))
    assert len(np.unique(resampled)) == 10


def test_share_of_the_way() -> None:
    base, upper, middle = np.zeros(100), np.ones(100), np.repeat([0, 1], [40, 60])

    def share(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Estimate:
        at = [means(x).at(0) for x in (values, low, high)]
        return share_of_the_way(at[0], base=at[1], upper=at[2])

    estimate = share(middle, base, upper)
    assert estimate.value == pytest.approx(0.6)
    assert 0.45 < estimate.low < 0.6 < estimate.high < 0.75
    assert np.isnan(share(middle, upper, upper).value)
    assert np.isnan(share(middle, upper, base).value)
    unsure = np.repeat([0, 1], [97, 3])  # on a draw in twenty there is no way to go
    estimate = share(middle, base, unsure)
    assert estimate.value == pytest.approx(20)
    assert np.isnan(estimate.low) and np.isnan(estimate.high)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"3 scenes .* 4 and"):
        difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"\(10000, 1\), another 3 and \(10000, 2\)"):
        difference(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least one"):
        Tally.of_means(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"\(2, 1, 3\) and \(2, 1, 4\)"):
        Tally(numerators=np.zeros((2, 1, 3)), denominators=np.zeros((2, 1, 4)))


def test_scenes_may_be_counted_after_steps_of_their_own() -> None:
    tally = Tally(numerators=np.arange(12).reshape(2, 3, 2), denominators=np.full((2, 3, 2), 10))
    found = tally.at(np.array([[0, 2, 2, 1], [2, 2, 0, 1]]))
    expected = [[0, 10], [4, 10], [4, 6], [2, 8]]  # first entries of scenes 0 and 1
    assert found.numerators[:, :, 0].T.tolist() == expected
    assert found.value.tolist() == [pytest.approx((a + b + 1) / 20) for a, b in expected]
