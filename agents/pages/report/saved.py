"""A run directory, as `evaluate` or `headroom` wrote it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from canvit_agents.judging.evidence import Evidence
from canvit_agents.judging.manifest import MANIFEST, load_policy_evidence, read_manifest
from canvit_agents.judging.statistics import Bootstrap, Estimate, paired_difference
from canvit_agents.judging.summary import bootstraps, metric_of, summarize, title_of
from canvit_gym.files import read_json

SUMMARY = "summary.json"

_FIELDS = {"policies": dict, "gflops_per_glimpse": float, "metrics": list}

_AGAIN = "evaluate again with the same --out"

_MISSING = object()  # unlike any JSON value


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A saved run: what was run, what came out, and what each policy saw, by name in the order of
    the run."""

    manifest: dict[str, Any]
    summary: dict[str, Any]
    evidence: dict[str, Evidence]
    gflops_per_glimpse: float

    @property
    def metric(self) -> str:
        """The name of the metric that policies are compared by."""
        return metric_of(self.summary)

    @property
    def title(self) -> str:
        """The same as people read it."""
        return title_of(self.summary)

    @property
    def num_glimpses(self) -> int:
        """T + 1."""
        return next(iter(self.evidence.values())).seen.num_glimpses

    @property
    def first_policy(self) -> str:
        """The first trained one, or the first where none is."""
        learned = [n for n, e in self.evidence.items() if e.settings["policy"]["learned"]]
        return next(iter([*learned, *self.evidence]))

    @cached_property
    def intervals(self) -> dict[str, Estimate]:
        """The metric at t0 .. tT with its 95 % interval, by policy: from the same draws of scenes
        as the differences in the summary."""
        return {name: _interval(found) for name, found in bootstraps(self.evidence).items()}


def load_run(directory: Path) -> SavedRun:
    """Load a run directory.

    Raises FileNotFoundError where a file is missing, ValueError with one sentence that names the
    file where one is damaged or something else.
    """
    manifest = read_manifest(directory)
    path = directory / SUMMARY
    summary = read_json(path, fields=_FIELDS, hint=_AGAIN)
    names = list(manifest["policies"])
    if list(summary["policies"]) != names:
        raise ValueError(
            f"{MANIFEST} and {SUMMARY} in {directory} are of different runs; {_AGAIN}."
        )
    evidence = {
        name: load_policy_evidence(directory, manifest=manifest, name=name) for name in names
    }
    _check_summary(summary, evidence=evidence, path=path)
    return SavedRun(
        manifest=manifest,
        summary=summary,
        evidence=evidence,
        gflops_per_glimpse=float(summary["gflops_per_glimpse"]),
    )


def _check_summary(summary: dict[str, Any], *, evidence: dict[str, Evidence], path: Path) -> None:
    """Raise ValueError unless the summary follows from the evidence, and what `headroom` adds to it
    is whole."""
    wrong = _unlike(summary, summarize(evidence))
    if not wrong and ("headroom" in summary or "score" in summary):
        wrong = _unlike_headroom(summary, names=list(evidence))
    if wrong:
        raise ValueError(
            f"{path} is damaged: {wrong} is missing or does not follow from the evidence; {_AGAIN}."
        )


def _unlike(found: Any, expected: Any, *, where: str = "") -> str:
    """The place of the first value that is not the expected one, but for rounding, or "". Objects
    may hold more."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return where
        places = (
            _unlike(found.get(key, _MISSING), value, where=f"{where}/{key}".lstrip("/"))
            for key, value in expected.items()
        )
        return next((place for place in places if place), "")
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return where
        pairs = zip(found, expected, strict=True)
        return next((place for f, e in pairs if (place := _unlike(f, e, where=where))), "")
    if isinstance(expected, float):
        same = _is_number(found) and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    else:
        same = type(found) is type(expected) and found == expected
    return "" if same else where


def _unlike_headroom(summary: dict[str, Any], *, names: list[str]) -> str:
    score, found = summary.get("score"), summary.get("headroom")
    if not isinstance(score, dict) or list(score) != names:
        return "score"
    if not all(value is None or _is_interval(value, "share") for value in score.values()):
        return "score"
    whole = isinstance(found, dict) and found.get("over") in names
    return "" if whole and _is_interval(found, "difference") else "headroom"


def _is_interval(value: Any, name: str) -> bool:
    """Whether it has a number by this name, and low and high, which are None where unknown."""
    if not isinstance(value, dict) or not _is_number(value.get(name)):
        return False
    low, high = (value.get(key, _MISSING) for key in ("low", "high"))
    return (low is None and high is None) or (_is_number(low) and _is_number(high))


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _interval(found: Bootstrap) -> Estimate:
    nothing = Bootstrap(
        value=np.zeros_like(found.value),
        resampled=np.zeros_like(found.resampled),
        num_scenes=found.num_scenes,
    )
    return paired_difference(found, nothing)
