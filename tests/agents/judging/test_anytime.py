"""Stopping once the belief is sure, on cases worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import classified, segmented, stopped

from canvit_agents.judging.anytime import glimpses_after, stop_when_sure
from canvit_agents.judging.evidence import Evidence
from canvit_agents.judging.metrics import tallies

# Scene 0 is sure and right at once and is talked out of it; scene 1 needs all its glimpses.
CORRECT = [[1, 0, 0], [0, 0, 1]]
SURE = [[-0.1, -0.5, -0.4], [-2.0, -1.0, -0.3]]


def believed(evidence: Evidence, confidence: Any) -> Evidence:
    potentials = {**evidence.seen.potentials, "neg_entropy": np.array(confidence, dtype=np.float32)}
    return replace(evidence, seen=replace(evidence.seen, potentials=potentials))


EVIDENCE = believed(classified(CORRECT, budget=2, num_glimpses=3), SURE)


def curve(evidence: Evidence) -> dict[str, Any]:
    metric, tally = next(iter(tallies(evidence).items()))
    found = stop_when_sure(evidence, metric=metric, tally=tally)
    json.dumps(found, allow_nan=False)
    return found


def test_glimpses_are_counted_up_to_each_step() -> None:
    seen = stopped(EVIDENCE, [3, 1]).seen
    assert glimpses_after(seen).tolist() == [[1, 2, 3], [1, 1, 1]]


def test_stopping_at_the_first_sure_belief() -> None:
    found = curve(EVIDENCE)
    assert found["potential"] == "neg_entropy"
    points = [found["thresholds"], found["glimpses"], found["accuracy"]]
    assert [values[0] for values in points] == [pytest.approx(-2), 1, 0.5]
    assert [values[-1] for values in points] == [pytest.approx(-0.1), 2, 1]  # 1 and 3: both right
    assert found["thresholds"] == sorted(found["thresholds"])
    assert found["glimpses"] == sorted(found["glimpses"])
    expected = {1.0: 0.5, 1.5: 0.5, 2.0: 1.0}  # both t0; t0 and t1; t0 and t2
    assert {(g, expected[g]) for g in found["glimpses"]} == set(
        zip(found["glimpses"], found["accuracy"], strict=True)
    )
    assert max(found["accuracy"]) > max(np.mean(CORRECT, axis=0))  # better than any one length


def test_a_belief_that_was_sure_once_has_stopped() -> None:
    """Later doubts do not count, because nobody looked."""
    unsure = believed(EVIDENCE, [[-1, -3, -3], [-3, -3, -3]])
    found = curve(unsure)
    at = [g for g, t in zip(found["glimpses"], found["thresholds"], strict=True) if -3 < t <= -1]
    assert at and set(at) == {2.0}  # one stops at t0, one never


def test_thresholds_are_evenly_spread_over_glimpses() -> None:
    rng = np.random.default_rng(0)
    many = believed(
        classified(rng.random((400, 5)) < 0.5, budget=4, num_glimpses=5), rng.random((400, 5)) - 1
    )
    steps = np.diff(curve(many)["glimpses"])
    np.testing.assert_allclose(steps, 4 / 20, atol=0.02)


def test_a_policy_that_stops_itself_is_never_made_to_look_longer() -> None:
    found = curve(stopped(EVIDENCE, [1, 2]))
    assert found["glimpses"][-1] == 1.5 and found["accuracy"][-1] == 0.5


def test_the_mean_iou_is_of_what_each_scene_had_when_it_stopped() -> None:
    intersection = [[[3, 0], [0, 0]], [[0, 0], [2, 2]]]
    union = [[[4, 0], [4, 0]], [[4, 4], [4, 4]]]
    evidence = believed(segmented(intersection, union), [[-0.1, -1], [-3, -2]])
    found = curve(evidence)
    assert found["glimpses"][0] == 1 and found["glimpses"][-1] == 1.5
    assert found["mean_iou"][0] == pytest.approx((3 / 8 + 0 / 4) / 2)
    assert found["mean_iou"][-1] == pytest.approx((5 / 8 + 2 / 4) / 2)


def test_a_single_glimpse_leaves_nothing_to_decide() -> None:
    found = curve(believed(classified([[1], [0]], budget=1, num_glimpses=1), [[-1], [-2]]))
    assert set(found["glimpses"]) == {1.0} and set(found["accuracy"]) == {0.5}
