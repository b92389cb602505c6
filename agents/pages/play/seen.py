"""A scene put together from its glimpses alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from canvit_gym import Episode, Rollout, Viewpoint
from canvit_gym.geometry import grid_centers
from canvit_gym.preprocess import denormalize

_UNSEEN = 0.5  # grey


def seen_so_far(episode: Episode, *, rollout: Rollout) -> np.ndarray:
    """A picture of what CanViT was shown of one scene, at the scene's size: uint8 [S, S, 3].

    Each glimpse is enlarged to where it was taken, smaller crops over larger ones, so that every
    place is as sharp as it was ever seen, and grey where it never was.
    """
    size = episode.pictures.shape[-1]
    places = grid_centers(size, device=episode.device).reshape(size, size, 2)
    seen = torch.full((3, size, size), _UNSEEN, device=episode.device)
    taken = episode.history[0, : int(episode.glimpses[0])]
    for glimpse in taken[taken[:, 2].argsort(descending=True, stable=True)]:
        center, scale = glimpse[:2], glimpse[2]
        viewpoint = Viewpoint(centers=center[None], scales=scale[None])
        pixels = denormalize(rollout.sample(episode, viewpoint))
        within = (places - center) / scale
        grid = within[None].flip(-1)  # torch wants (x, y)
        enlarged = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)[0]
        seen = torch.where((within.abs() <= 1).all(dim=-1), enlarged, seen)
    return (seen * 255).round().byte().permute(1, 2, 0).cpu().numpy()
