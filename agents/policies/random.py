"""Anywhere: the paper's R-IID, and F-IID on a rollout that starts with the full scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from canvit_agents.policies.base import Policy, concatenate
from canvit_gym import Episode, Viewpoint
from canvit_gym.geometry import random_viewpoint


@dataclass(frozen=True, kw_only=True)
class RandomPolicy(Policy):
    """Every glimpse drawn anew; the density of scales falls from its height at the smallest to 0
    at 1, and centres are uniform over what stays inside the scene."""

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        return draw_viewpoints(generators, min_scale=self.rollout.glimpse.min_scale).to(
            episode.device
        )


def draw_viewpoints(generators: Sequence[torch.Generator], *, min_scale: float) -> Viewpoint:
    """One R-IID viewpoint from each generator."""
    return concatenate(
        [random_viewpoint(batch_size=1, min_scale=min_scale, generator=g) for g in generators]
    )
