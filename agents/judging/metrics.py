"""The metrics that policies are judged by, from what was seen of each scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from canvit_agents.judging.evidence import Evidence
from canvit_agents.judging.statistics import Tally
from canvit_gym.tasks.base import Metric


def metrics_of(evidence: Evidence) -> list[Metric]:
    """The task's metrics, as the evidence says; by the first policies are compared."""
    return [Metric(**fields) for fields in evidence.settings["metrics"]]


def tallies(evidence: Evidence) -> dict[str, Tally]:
    """The task's metrics by name; the first is that by which policies are compared.

    Raises ValueError where no scene has what a metric is taken of, such as a labelled pixel.
    """
    return {metric.name: _tally(evidence, metric) for metric in metrics_of(evidence)}


def compared(evidence: Evidence) -> Tally:
    """The metric by which policies are compared."""
    return _tally(evidence, metrics_of(evidence)[0])


def _tally(evidence: Evidence, metric: Metric) -> Tally:
    seen = evidence.seen
    known: dict[str, Any] = {**seen.potentials, **seen.outcome}
    if metric.per is None:
        return Tally.of_means(known[metric.values])
    counts: np.ndarray = known[metric.per]
    if not counts.any():
        raise ValueError(
            f"None of the {seen.num_scenes} scenes has anything that the {metric.title} is taken "
            "of, such as a labelled pixel; choose other scenes."
        )
    return Tally(numerators=known[metric.values], denominators=counts)
