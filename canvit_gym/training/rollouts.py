"""Where rollouts of training and of its validations look, and on what."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from canvit_gym.geometry import Viewpoint, grid_centers, random_viewpoint
from canvit_gym.preprocess import normalize


def draw_viewpoint(
    count: int, *, min_scale: float, full_share: float, generator: torch.Generator
) -> Viewpoint:
    """R-IID viewpoints of `count` scenes, this share of them the full scene in place of it."""
    viewpoint = random_viewpoint(batch_size=count, min_scale=min_scale, generator=generator)
    is_full = torch.rand(count, generator=generator) < full_share
    return Viewpoint(
        centers=viewpoint.centers.masked_fill(is_full[:, None], 0),
        scales=viewpoint.scales.masked_fill(is_full, 1),
    )


def coarse_to_fine(count: int, *, num_glimpses: int, generator: torch.Generator) -> list[Viewpoint]:
    """The full scene, its quadrants, their quadrants ..., each level in an order of each scene's
    own: as many viewpoints as asked for."""
    views: list[Viewpoint] = []
    side = 1
    while len(views) < num_glimpses:
        centers = grid_centers(side)
        order = torch.rand(count, side**2, generator=generator).argsort(1)
        scales = torch.full((count,), 1 / side)
        views += [Viewpoint(centers=centers[places], scales=scales) for places in order.unbind(1)]
        side *= 2
    return views[:num_glimpses]


def scenes_of(pictures: Tensor, *, size_px: int, device: torch.device) -> Tensor:
    """Normalised scenes float32 [B, 3, size_px, size_px] of pictures uint8 [B, S, S, 3]."""
    scenes = normalize(pictures.to(device, non_blocking=True))
    if scenes.shape[-1] == size_px:
        return scenes
    return F.interpolate(scenes, size=(size_px, size_px), mode="bilinear", antialias=True)
