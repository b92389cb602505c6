"""Naming the scene: the belief is a distribution over classes."""

from canvit_gym.tasks.classification.task import (
    ACCURACY,
    POTENTIALS,
    Classification,
    Classifier,
    Potential,
)

__all__ = ["ACCURACY", "POTENTIALS", "Classification", "Classifier", "Potential"]
