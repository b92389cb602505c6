"""The protocol of what is particular to a task in training a probe of the canvas for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from canvit_gym.model.canvas_probe import CanvasProbe
from canvit_gym.model.canvit import Core
from canvit_gym.scenes.base import Scene, Scenes
from canvit_gym.tasks.base import Task


class Probing(Protocol):
    """Makes probes for a task, and says what they are to learn."""

    def open_scenes(self, name: str, *, split: str, size_px: int) -> Scenes:
        """Scenes as they are judged: "emoji", or a folder. Raises ValueError or OSError where there
        are none, or of another size."""
        ...

    def new_probe(
        self, *, embed_dim: int, dropout: float, scenes: Scenes, indices: Sequence[int]
    ) -> CanvasProbe:
        """A probe to be trained on these of the scenes; its weights are drawn from torch's global
        generator."""
        ...

    def load_probe(self, name: str, *, device: str) -> CanvasProbe:
        """A probe that was trained, by name or directory."""
        ...

    def labels(self, scene: Scene) -> np.ndarray:
        """The truth about each pixel, [S, S]; raises ValueError where the scene has none."""
        ...

    def loss(self, read: Tensor, labels: Tensor, *, probe: CanvasProbe) -> Tensor:
        """The loss of the probe's readings [B, outputs, G, G] against the truth [B, G, G] at the
        middle of each cell, averaged over all that is known."""
        ...

    def task(
        self, *, canvit: Core, probe: CanvasProbe, scenes: Scenes, label_size_px: int
    ) -> Task: ...
