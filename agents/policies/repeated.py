"""The full scene again and again: what recurrence alone is worth (the paper's RFS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from canvit_agents.policies.base import Policy
from canvit_gym import Episode, Viewpoint


@dataclass(frozen=True, kw_only=True)
class RepeatedFullScene(Policy):
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        return Viewpoint.full_scene(batch_size=episode.batch_size, device=episode.device)
