"""A run directory, as `evaluate` or `headroom` wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from canvit_agents.judging.evidence import Evidence, load_evidence
from canvit_agents.judging.manifest import MANIFEST
from canvit_agents.judging.statistics import Bootstrap, Estimate, paired_difference
from canvit_agents.judging.summary import bootstraps, metric_of

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What was run, what came out, and what each policy saw, by name in the order of the run."""

    manifest: dict[str, Any]
    summary: dict[str, Any]
    evidence: dict[str, Evidence]
    gflops_per_glimpse: float

    @property
    def metric(self) -> str:
        """By which policies are compared, one of `metrics.TITLES`."""
        return metric_of(self.summary)

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
    """Raises FileNotFoundError where a file is missing, ValueError where one is something else."""
    manifest, summary = (_read_json(directory, name) for name in (MANIFEST, SUMMARY))
    try:
        files = {name: policy["file"] for name, policy in manifest["policies"].items()}
        same = list(files) == list(summary["policies"])
        gflops = float(summary["gflops_per_glimpse"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory} holds no run of this version ({type(error).__name__}: {error}); "
            "evaluate again with the same --out."
        ) from error
    if not same or not files:
        raise ValueError(
            f"{MANIFEST} and {SUMMARY} in {directory} are of different runs; evaluate again with "
            "the same --out."
        )
    evidence = {name: load_evidence(directory / file) for name, file in files.items()}
    return SavedRun(
        manifest=manifest, summary=summary, evidence=evidence, gflops_per_glimpse=gflops
    )


def _read_json(directory: Path, name: str) -> Any:
    path = directory / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no {name}; give a directory that `canvit-gym evaluate --out "
            "DIR` or `headroom --out DIR` wrote."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); evaluate again.") from error


def _interval(found: Bootstrap) -> Estimate:
    nothing = Bootstrap(
        value=np.zeros_like(found.value),
        resampled=np.zeros_like(found.resampled),
        num_scenes=found.num_scenes,
    )
    return paired_difference(found, nothing)
