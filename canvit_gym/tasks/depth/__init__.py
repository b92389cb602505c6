"""Telling how far away everything is: the belief is a map of log depths, each with its doubt."""

from canvit_gym.tasks.depth.probe import CanViTForDepth, DepthProbe
from canvit_gym.tasks.depth.task import POTENTIALS, Depth, DepthReader, Potential

__all__ = ["POTENTIALS", "CanViTForDepth", "Depth", "DepthProbe", "DepthReader", "Potential"]
