"""The metrics that policies are judged by, from what was seen of each scene."""

from __future__ import annotations

from canvit_agents.judging.evidence import Trajectories
from canvit_agents.judging.statistics import Tally

TITLES = {"accuracy": "accuracy", "mean_iou": "mean IoU"}
"""Metrics that policies are compared by, one for each task, with the name that people read."""


def tallies(seen: Trajectories) -> dict[str, Tally]:
    """Metrics by name; the first is one of TITLES, by which policies are compared.

    accuracy: share of the scenes that are named right. mean_iou: intersections and unions summed
    over all scenes, their ratio averaged over the classes with a union. pixel_accuracy: share of a
    scene's labelled pixels that are right, averaged over scenes.

    Raises ValueError where no class occurs in any scene, in masks or predictions.
    """
    outcome = seen.outcome
    if "correct" in outcome:
        return {"accuracy": Tally.of_means(outcome["correct"])}
    if not outcome["union"].any():
        raise ValueError(
            f"None of the {seen.num_scenes} scenes has a labelled pixel; choose scenes whose masks "
            "name classes."
        )
    return {
        "mean_iou": Tally(numerators=outcome["intersection"], denominators=outcome["union"]),
        "pixel_accuracy": Tally.of_means(seen.potentials["pixel_accuracy"]),
    }
