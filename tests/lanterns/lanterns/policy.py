"""Look where nobody has looked."""

from dataclasses import dataclass

import torch

from canvit_agents import Policy
from canvit_gym.geometry import clip_into_scene, grid_centers


@dataclass(frozen=True, kw_only=True)
class Unseen(Policy):
    def __call__(self, episode, generators):
        seen = episode.belief[:, 1]
        cells = grid_centers(round(seen.shape[1] ** 0.5), device=episode.device)
        scales = torch.full((episode.batch_size,), 0.375, device=episode.device)
        return clip_into_scene(centers=cells[seen.argmin(dim=1)], scales=scales)
