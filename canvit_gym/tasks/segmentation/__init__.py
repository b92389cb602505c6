"""Labelling every part of the scene: the belief is a map of class logits."""

from canvit_gym.tasks.segmentation.task import POTENTIALS, Potential, Segmentation, Segmenter

__all__ = ["POTENTIALS", "Potential", "Segmentation", "Segmenter"]
