"""An upper bound: trying candidate viewpoints and taking the one that helps most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from canvit_agents.policies.base import Policy
from canvit_agents.policies.quadtree import quadtree
from canvit_agents.policies.random import draw_viewpoints
from canvit_gym import Episode, Viewpoint

_LEVEL, _TILES = 2, 1 + 4 + 16


@dataclass(frozen=True, kw_only=True)
class Oracle(Policy):
    """Greedy with the label in hand: of `num_candidates`, the viewpoint after which `potential`
    (the task's first one where None) is highest. So no bound on what planning ahead could reach.

    The candidates are the quadtree's 16 tiles of a quarter side, so that no part of the scene is
    overlooked, then R-IID viewpoints.

    It peeks at one candidate for all scenes at a time, so it needs no more memory than a glimpse.
    """

    num_candidates: int = 24
    potential: str | None = None

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        candidates = self.candidates(episode, generators)
        potential = self.potential or self.rollout.task.potential_names[0]
        scores = torch.stack(
            [self.rollout.look(episode, v).potentials[potential] for v in candidates]
        )
        best, rows = scores.argmax(dim=0), torch.arange(episode.batch_size, device=episode.device)
        return Viewpoint(
            centers=torch.stack([v.centers for v in candidates])[best, rows],
            scales=torch.stack([v.scales for v in candidates])[best, rows],
        )

    def candidates(
        self, episode: Episode, generators: Sequence[torch.Generator]
    ) -> list[Viewpoint]:
        """Returns what it tries: for each candidate, one viewpoint a scene."""
        tiles, levels = quadtree(min_tiles=_TILES)
        fixed = tiles[levels == _LEVEL][: self.num_candidates, None].expand(-1, len(generators), 3)
        tried = [Viewpoint(centers=tile[:, :2], scales=tile[:, 2]) for tile in fixed]
        min_scale = self.rollout.glimpse.min_scale
        while len(tried) < self.num_candidates:
            tried.append(draw_viewpoints(generators, min_scale=min_scale))
        return [viewpoint.to(episode.device) for viewpoint in tried]
