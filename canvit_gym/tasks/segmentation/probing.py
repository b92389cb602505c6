"""Training segmentation probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from canvit_gym.model.canvas_probe import CanvasProbe
from canvit_gym.model.canvit import Core
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.base import IGNORE, Scene, Scenes
from canvit_gym.scenes.emoji import open_emoji
from canvit_gym.tasks.segmentation.task import Segmentation


class SegmentationProbing:
    """Cross-entropy against masks, of generated scenes or of an ADE20K folder."""

    def open_scenes(self, name: str, *, split: str, size_px: int) -> Scenes:
        emoji = open_emoji(name, split=split, size_px=size_px)
        return emoji or ADE20KScenes(name, split=split, size_px=size_px)  # type: ignore[arg-type]

    def new_probe(
        self, *, embed_dim: int, dropout: float, scenes: Scenes, indices: Sequence[int]
    ) -> SegmentationProbe:
        return SegmentationProbe(
            embed_dim=embed_dim,
            num_classes=len(scenes.mask_class_names),
            dropout=dropout,
            use_ln=True,
        )

    def load_probe(self, name: str, *, device: str) -> SegmentationProbe:
        return SegmentationProbe.from_pretrained(name, device=device)

    def labels(self, scene: Scene) -> np.ndarray:
        if scene.mask is None:
            raise ValueError(f"Scene {scene.name} has no mask; choose scenes with masks.")
        return scene.mask

    def loss(self, read: Tensor, labels: Tensor, *, probe: CanvasProbe) -> Tensor:
        total = F.cross_entropy(read, labels.long(), ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp(min=1)  # a batch may have no labels at all

    def task(
        self, *, canvit: Core, probe: CanvasProbe, scenes: Scenes, label_size_px: int
    ) -> Segmentation:
        assert isinstance(probe, SegmentationProbe)
        return Segmentation(
            model=CanViTForSemanticSegmentation(canvit=canvit, probe=probe),
            class_names=scenes.mask_class_names,
            label_size_px=label_size_px,
        )
