"""Training depth probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from canvit_gym.model.canvas_probe import CanvasProbe
from canvit_gym.model.canvit import Core
from canvit_gym.scenes.base import Scene, Scenes
from canvit_gym.scenes.depth_folder import DepthFolderScenes
from canvit_gym.scenes.emoji import open_emoji
from canvit_gym.tasks.depth.probe import CanViTForDepth, DepthProbe
from canvit_gym.tasks.depth.task import Depth, log_prob

_MEASURED = 200
"""Scenes whose depths decide where the bins lie."""

_BINS = 64


class DepthProbing:
    """Cross-entropy against the nearest bin of log depth: of generated scenes, or of a folder with
    rgb and depth."""

    def open_scenes(self, name: str, *, split: str, size_px: int) -> Scenes:
        emoji = open_emoji(name, split=split, size_px=size_px, depth=True)
        return emoji or DepthFolderScenes(name, split=split, size_px=size_px)  # type: ignore[arg-type]

    def new_probe(
        self, *, embed_dim: int, dropout: float, scenes: Scenes, indices: Sequence[int]
    ) -> DepthProbe:
        measured = [np.log(self.labels(scenes[i])) for i in indices[:_MEASURED]]
        known = np.concatenate([depth[~np.isnan(depth)] for depth in measured])
        if not known.size or known.min() == known.max():
            raise ValueError("The scenes have no known depths that differ; choose others.")
        return DepthProbe(
            embed_dim=embed_dim,
            num_bins=_BINS,
            dropout=dropout,
            use_ln=True,
            log_depth_min=round(float(known.min()), 4),
            log_depth_max=round(float(known.max()), 4),
        )

    def load_probe(self, name: str, *, device: str) -> DepthProbe:
        return DepthProbe.from_pretrained(name, device=device)

    def labels(self, scene: Scene) -> np.ndarray:
        if scene.depth is None:
            raise ValueError(f"Scene {scene.name} has no depth; choose scenes with depth.")
        return scene.depth

    def loss(self, read: Tensor, labels: Tensor, *, probe: CanvasProbe) -> Tensor:
        assert isinstance(probe, DepthProbe)
        known = (~labels.isnan()).sum().clamp(min=1)
        return -log_prob(read, labels.log(), log_depths=probe.log_depths).sum() / known

    def task(
        self, *, canvit: Core, probe: CanvasProbe, scenes: Scenes, label_size_px: int
    ) -> Depth:
        assert isinstance(probe, DepthProbe)
        model = CanViTForDepth(canvit=canvit, probe=probe)
        return Depth(model=model, label_size_px=label_size_px)
