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
    """First a glimpse centred on the target's box, at the smallest scale that covers it; later
    ones from the same scale, each moved at random by up to half of what the box leaves free.

    Seen from the same place again, the target tells little that is new. On 400 train scenes,
    accuracy after four such glimpses was 0.99, with the target always in the middle 0.93, and with
    growing scales 0.89.

    Raises ValueError for scenes that do not say where their target is.
    """

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        boxes = torch.stack([target_box(scene) for scene in episode.scenes])
        low, high = boxes[:, :2], boxes[:, 2:]
        half_sides = (high - low) / 2
        scales = half_sides.amax(dim=1).clamp(self.rollout.glimpse.min_scale, 1)
        free = (scales[:, None] - half_sides) / 2
        shares = torch.stack([torch.rand(2, generator=g) for g in generators]) * 2 - 1
        shares[(episode.looks == 0).cpu()] = 0
        centers = (low + high) / 2 + shares * free
        return clip_into_scene(centers=centers, scales=scales).to(episode.device)


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
