"""An upper bound: knowing where the labelled thing is, but not what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.policies.base import Policy
from canvit_gym.envs.rollout import Episode
from canvit_gym.geometry import Viewpoint, clip_into_scene
from canvit_gym.scenes.base import Scene


@dataclass(frozen=True, kw_only=True)
class TargetPolicy(Policy):
    """Every glimpse is centred on the target's box, at the smallest scale that covers it.

    Raises ValueError for scenes that do not say where their target is.
    """

    margin: float = 1.0

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        boxes = torch.stack([target_box(scene) for scene in episode.scenes])
        low, high = boxes[:, :2], boxes[:, 2:]
        covering = (high - low).amax(dim=1) / 2 * self.margin
        scales = covering.clamp(self.rollout.glimpse.min_scale, 1)
        return clip_into_scene(centers=(low + high) / 2, scales=scales).to(episode.device)


def target_box(scene: Scene) -> Tensor:
    """(top, left, bottom, right) of the target in the scene frame: float32 [4]."""
    if scene.target is None:
        raise ValueError(
            f"Scene {scene.name!r} does not say where its target is, which 'target' must know; "
            "leave that policy out, or use CanViT-Emoji-v0."
        )
    box = scene.target
    edges = torch.tensor([box.top, box.left, box.bottom, box.right], dtype=torch.float32)
    return edges * (2 / scene.picture.shape[0]) - 1
