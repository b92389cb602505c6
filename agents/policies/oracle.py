"""An upper bound: trying candidate viewpoints and taking the one that helps most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agents.policies.base import Policy
from agents.policies.random import draw_viewpoints
from canvit_gym.envs.rollout import Episode
from canvit_gym.geometry import Viewpoint


@dataclass(frozen=True, kw_only=True)
class Oracle(Policy):
    """Greedy with the label in hand: of `num_candidates` R-IID viewpoints, the one after which
    `potential` is highest. Greedy, so no bound on what planning ahead could reach.

    It peeks at one candidate for all scenes at a time, so it needs no more memory than a glimpse.
    """

    num_candidates: int = 24
    potential: str = "log_prob"

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        candidates = self.candidates(episode, generators)
        scores = torch.stack(
            [self.rollout.look(episode, v).potentials[self.potential] for v in candidates]
        )
        best, rows = scores.argmax(dim=0), torch.arange(episode.batch_size, device=episode.device)
        return Viewpoint(
            centers=torch.stack([v.centers for v in candidates])[best, rows],
            scales=torch.stack([v.scales for v in candidates])[best, rows],
        )

    def candidates(
        self, episode: Episode, generators: Sequence[torch.Generator]
    ) -> list[Viewpoint]:
        """What it tries, one batch of viewpoints for each candidate."""
        min_scale = self.rollout.glimpse.min_scale
        return [
            draw_viewpoints(generators, min_scale=min_scale).to(episode.device)
            for _ in range(self.num_candidates)
        ]
