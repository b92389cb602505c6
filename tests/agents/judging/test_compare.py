"""Two saved runs side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import classified, segmented, stopped

from canvit_agents.judging.compare import Run, compare, find_run, format_comparison
from canvit_agents.judging.evaluate import save_results
from canvit_agents.judging.evidence import Evidence, evidence_path, save_evidence
from canvit_agents.judging.summary import summarize

GOOD = classified([[0, 1], [1, 1], [0, 1]], name="good")
BAD = classified([[0, 0], [1, 1], [0, 0]], name="bad")


def saved(directory: Path, *evidence: Evidence) -> Path:
    named = {e.settings["policy"]["name"]: e for e in evidence}
    for e in evidence:
        save_evidence(evidence_path(directory, e.settings), e)
    save_results(directory, named, summarize(named))
    return directory


def runs(first: Evidence, second: Evidence) -> tuple[Run, Run]:
    return Run(name="a", evidence=first), Run(name="b:c", evidence=second)


def test_the_comparison_is_that_of_one_run(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", GOOD), saved(tmp_path / "other", BAD, GOOD)
    result = compare(find_run(str(one)), find_run(f"{other}:bad"))
    baseline = replace(BAD, settings=classified([[0]], name="full_then_random").settings)
    together = summarize({"good": GOOD, "full_then_random": baseline})
    assert result["paired"] == together["paired"]["good - full_then_random"]
    assert result["paired"]["difference"] == pytest.approx([0, 2 / 3])
    assert result["values"] == [pytest.approx([1 / 3, 1]), pytest.approx([1 / 3, 1 / 3])]
    lines = format_comparison(result).splitlines()
    assert lines[0] == "accuracy after each glimpse, 3 scenes, paired"
    assert lines[1:3] == [f"A  {one}", f"B  {other}:bad"]
    assert lines[-1].split()[:4] == ["t1", "1.000", "0.333", "+0.667"]
    assert "glimpses:" not in "".join(lines)


def test_mean_glimpses_are_said_where_one_stops() -> None:
    result = compare(*runs(stopped(GOOD, [2, 1, 1]), BAD))
    assert result["glimpses"] == [pytest.approx(4 / 3), 2]
    assert "Mean glimpses: A 1.33, B 2.00." in format_comparison(result).splitlines()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (replace(BAD, seen=replace(BAD.seen, scenes=np.array([0, 1, 3]))), "scenes"),
        (replace(BAD, seen=replace(BAD.seen, digests=("x", "y", "z"))), "scenes"),
        (replace(BAD, settings=BAD.settings | {"num_glimpses": 3}), "budget"),
        (
            replace(BAD, settings=BAD.settings | {"backbone": {"name": "mini", "sha256": "1"}}),
            "backbone",
        ),
        (segmented(np.ones((3, 2, 2)), np.ones((3, 2, 2))), "metric"),
        (
            segmented(np.ones((4, 2, 2)), np.ones((4, 2, 2)), num_glimpses=1),
            "scenes and budget and metric",
        ),
    ],
)
def test_runs_that_say_nothing_about_each_other_are_refused(other: Evidence, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^a and b:c differ in {expected}, so .*setting.$"):
        compare(*runs(GOOD, other))


def test_other_differences_are_told() -> None:
    other = replace(BAD, settings=BAD.settings | {"seed": 1, "potential": "correct"})
    assert "They differ in seed, potential too." in format_comparison(compare(*runs(GOOD, other)))
    assert "differ" not in format_comparison(compare(*runs(GOOD, BAD)))


def test_segmentations_are_compared_by_mean_iou() -> None:
    counts = np.array([[[2, 0]], [[6, 4]]])
    union = np.array([[[4, 1]], [[8, 9]]])
    result = compare(*runs(segmented(counts, union), segmented(counts // 2, union)))
    assert result["metric"] == {"name": "mean_iou", "title": "mean IoU"}
    assert result["paired"]["difference"] == pytest.approx([(4 / 12 + 2 / 10) / 2])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("{both}", r"does not say which policy; give .*both: and one of good, bad\."),
        ("{both}:best", r"has no policy 'best'; give .*both: and one of good, bad\."),
        ("{empty}:good", r"holds no manifest\.json; give a directory that"),
        ("{empty}/nowhere:good", r"no run directory .*nowhere:good; give DIR:POLICY"),
    ],
)
def test_runs_that_can_not_be_found(name: str, complaint: str, tmp_path: Path) -> None:
    both, empty = saved(tmp_path / "both", GOOD, BAD), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        find_run(name.format(both=both, empty=empty))


def test_names_may_hold_colons(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"name": "runs:1/emoji", "learned": True, "initial_glimpse": None}
    learned = replace(GOOD, settings=GOOD.settings | {"policy": odd})
    directory = saved(tmp_path / "at 12:30", learned, BAD)
    assert find_run(f"{directory}:runs:1/emoji").evidence.settings == learned.settings
    assert find_run(f"{directory}:bad").evidence.settings == BAD.settings
