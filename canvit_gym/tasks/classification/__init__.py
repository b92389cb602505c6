"""Naming the scene: the belief is a distribution over classes."""

from canvit_gym.tasks.classification.task import POTENTIALS, Classification, Classifier, Potential

__all__ = ["POTENTIALS", "Classification", "Classifier", "Potential"]
