"""What is said of saved evidence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import classified, segmented, stopped

from canvit_agents.judging.evidence import Evidence
from canvit_agents.judging.summary import format_table, pairs, shown_steps, summarize

LOW = classified([[0, 0], [0, 0], [0, 0], [0, 1]] * 5, name="full_then_random")
MIDDLE = classified([[0, 1], [0, 0], [0, 0], [0, 1]] * 5, name="mine", learned=True)
HIGH = classified([[0, 1], [0, 1], [0, 0], [0, 1]] * 5, name="target")


def named(*evidence: Evidence) -> dict[str, Evidence]:
    return {e.settings["policy"]["name"]: e for e in evidence}


def test_a_classification() -> None:
    summary = summarize(named(LOW, HIGH))
    json.dumps(summary, allow_nan=False)
    assert {k: summary[k] for k in ("env", "split", "num_scenes", "budget")} == {
        "env": "CanViT-Emoji-v0", "split": "test", "num_scenes": 20, "budget": 1,
    }  # fmt: skip
    row = summary["policies"]["target"]
    assert row["accuracy"] == [0, 0.75]
    assert row["potentials"] == {
        "log_prob": [-1.5, -0.5625], "correct": [0, 0.75], "neg_entropy": [-2, -0.875],
    }  # fmt: skip
    assert row["return_mean"] == pytest.approx(-0.5625 + 1.5)
    assert set(row["scanpath"]) >= {"coverage", "revisits", "saccade_length", "entropy", "scales"}
    assert "regret" not in row
    assert list(summary["paired"]) == ["target - full_then_random"]
    assert summary["paired"]["target - full_then_random"]["difference"] == [0, 0.5]


def test_a_segmentation() -> None:
    start, union = [[2, 0], [2, 0]], [[[4, 1]] * 2, [[8, 5]] * 2]
    better = segmented([[start[0], [2, 0]], [start[1], [6, 3]]], union, name="b")
    base = segmented([[start[0]] * 2, [start[1]] * 2], union, name="full_then_random")
    summary = summarize(named(better, base))
    json.dumps(summary, allow_nan=False)
    row = summary["policies"]["b"]
    first, last = (4 / 12 + 0 / 6) / 2, (8 / 12 + 3 / 6) / 2
    assert row["mean_iou"] == pytest.approx([first, last])
    assert row["pixel_accuracy"] == pytest.approx([(2 / 5 + 2 / 13) / 2, (2 / 5 + 9 / 13) / 2])
    assert row["potentials"]["pixel_accuracy"] == pytest.approx(row["pixel_accuracy"])
    difference = summary["paired"]["b - full_then_random"]["difference"]
    assert difference == pytest.approx([0, last - first])
    assert "backbone mini: mean IoU after each glimpse" in format_table(summary).splitlines()[0]


def test_rewards_are_of_the_potential_that_was_asked_for() -> None:
    other = replace(HIGH, settings=HIGH.settings | {"potential": "correct"})
    assert summarize(named(other))["policies"]["target"]["return_mean"] == 0.75


def test_a_blind_start_is_a_choice() -> None:
    policy = HIGH.settings["policy"] | {"initial_glimpse": None}
    blind = replace(HIGH, settings=HIGH.settings | {"policy": policy})
    share = {
        name: summarize({"a": e})["policies"]["a"]["scanpath"]["coverage"]
        for name, e in (("given", HIGH), ("chosen", blind))
    }
    assert share["chosen"] > share["given"]


def test_regret() -> None:
    peeks = {
        "best_candidate": np.array([[np.nan, -0.05]] * 20, dtype=np.float32),
        "rank": np.array([[np.nan, r] for r in (1, 2, 4, 3) * 5], dtype=np.float32),
    }
    peeked = replace(
        HIGH,
        settings=HIGH.settings | {"candidates": 6},
        seen=replace(HIGH.seen, peeks=peeks),
    )
    summary = summarize({"a": peeked})
    found = summary["policies"]["a"]["regret"]
    assert (found["candidates"], found["rank"]) == (6, [None, 2.5])
    assert found["regret"] == [None, pytest.approx(0.5625 - 0.05)]
    lines = format_table(summary).splitlines()
    assert lines[2].split()[-5:] == ["return", "rank", "t1", "over", "full_then_random"]
    assert lines[3].split()[-1] == "2.5"


def test_share_of_the_way() -> None:
    summary = summarize(named(MIDDLE, LOW, HIGH))
    name = "mine from full_then_random to target"
    assert summary["share_of_the_way"][name]["share"] == 0.5
    assert format_table(summary).splitlines()[-1].startswith(f"{name}: 50% of the way [")
    json.dumps(summary, allow_nan=False)
    no_way = {"mine": MIDDLE, "full_then_random": LOW, "target": LOW}
    assert not summarize(no_way)["share_of_the_way"]


def test_the_way_leads_to_the_target_or_else_to_the_oracle() -> None:
    oracle = {"mine": MIDDLE, "full_then_random": LOW, "oracle": HIGH}
    assert list(summarize(oracle)["share_of_the_way"]) == ["mine from full_then_random to oracle"]
    both = {"target": HIGH, **oracle}
    assert list(summarize(both)["share_of_the_way"]) == ["mine from full_then_random to target"]
    assert not summarize(named(MIDDLE, HIGH))["share_of_the_way"]


def test_pairs() -> None:
    names = ["a", "full_then_random", "b", "oracle"]
    assert pairs(names, learned=["a", "b"]) == [
        ("a", "full_then_random"),
        ("a", "b"),
        ("a", "oracle"),
        ("b", "full_then_random"),
        ("b", "oracle"),
        ("oracle", "full_then_random"),
    ]
    assert pairs(["oracle", "target"], learned=[]) == []


def test_other_scenes_are_refused() -> None:
    changed = replace(HIGH, seen=replace(HIGH.seen, digests=("x", *HIGH.seen.digests[1:])))
    with pytest.raises(
        ValueError, match="'full_then_random' and 'target' were played on different"
    ):
        summarize(named(LOW, changed))


def test_a_table_of_many_steps_has_room_for_some() -> None:
    assert shown_steps(3) == [0, 1, 2] and shown_steps(8) == list(range(8))
    assert shown_steps(21) == [0, 1, 2, 3, 4, 10, 20]
    long = classified(np.ones((2, 21)), name="a", budget=20)
    assert format_table(summarize({"a": long})).splitlines()[2].split()[6:10] == [
        "t10", "t20", "return", "t20",
    ]  # fmt: skip


# -- stopping --------------------------------------------------------------------------------------

LONG = classified(
    [[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], name="a", budget=3, num_glimpses=4
)


def test_glimpses_and_what_they_cost() -> None:
    summary = summarize({"a": LONG, "b": stopped(LONG, [4, 1, 2, 3])})
    assert summary["gflops_per_glimpse"] == 0.002
    assert summary["policies"]["a"]["glimpses"] == [1, 2, 3, 4]
    row = summary["policies"]["b"]
    assert row["glimpses"] == [1, 1.75, 2.25, 2.5]
    assert row["accuracy"] == [0.5, 0.25, 0.5, 0.5]  # with what was held where it stopped
    head, a, b = (line.split() for line in format_table(summary).splitlines()[2:])
    assert head[6:8] == ["glimpses", "GFLOPs"]
    assert a[6:] == ["4.00", "0.008"] and b[6:] == ["2.50", "0.005"]
    assert "glimpses" not in format_table(summarize({"a": LONG})).splitlines()[2]


def test_glimpses_are_taken_from_the_return_at_their_price() -> None:
    priced = replace(LONG, settings=LONG.settings | {"glimpse_cost": 0.125})
    free = summarize({"a": LONG})["policies"]["a"]["return_mean"]
    summary = summarize({"a": priced})
    assert summary["policies"]["a"]["return_mean"] == free - 0.375
    head = format_table(summary).splitlines()[0]
    assert head.endswith("after each glimpse; the return is less 0.125 for each after t0")
    at_once = summarize({"a": stopped(priced, [1, 1, 1, 1])})["policies"]["a"]
    assert at_once["return_mean"] == 0 and at_once["scanpath"]["coverage"] == 0
    json.dumps(at_once, allow_nan=False)


def test_regret_is_of_choices() -> None:
    peeks = {
        "best_candidate": np.array([[np.nan, -0.05]] * 2 + [[np.nan] * 2] * 2, dtype=np.float32),
        "rank": np.array([[np.nan, 3.0]] * 2 + [[np.nan] * 2] * 2, dtype=np.float32),
    }
    seen = replace(stopped(classified([[0, 1]] * 4), [2, 2, 1, 1]).seen, peeks=peeks)
    peeked = replace(HIGH, settings=HIGH.settings | {"candidates": 6}, seen=seen)
    found = summarize({"a": peeked})["policies"]["a"]["regret"]
    assert found["rank"] == [None, 3] and found["regret"] == [None, pytest.approx(0.2)]
