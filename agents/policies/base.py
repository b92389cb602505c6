"""The base of policies, which choose the next viewpoint of every episode in a batch, or stop it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from canvit_gym import Choice, Episode, Rollout, Viewpoint


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """Chooses viewpoints on episodes of `rollout`; what it already looked at, the episode knows.

    Policies may start differently (see `starting_blind`), so each brings the rollout that it is
    to be played on. It keeps no state of its own.
    """

    rollout: Rollout

    @abstractmethod
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        """One viewpoint inside the scene for each of the B unfinished episodes.

        generators: one CPU generator for each scene, the only source of chance. So a scene's draws
        depend on no other scene, nor on the batch that it is in.
        """

    def choose(self, episode: Episode, generators: Sequence[torch.Generator]) -> Choice:
        """Those viewpoints, and which episodes stop instead: none, where a policy does not know
        how to."""
        return Choice.look(self(episode, generators))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide its choices beside the rollout, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rollout"}
        return {"kind": type(self).__name__, **values}


def num_glimpses(rollout: Rollout) -> int:
    """How many glimpses an episode has in all, t0 to tT."""
    return rollout.budget + (rollout.initial_glimpse is not None)


def starting_full(rollout: Rollout) -> Rollout:
    """The same number of glimpses, the first of them the full scene."""
    return replace(rollout, budget=num_glimpses(rollout) - 1, initial_glimpse="full_scene")


def starting_blind(rollout: Rollout) -> Rollout:
    """The same number of glimpses, every one of them chosen, the first without having seen."""
    return replace(rollout, budget=num_glimpses(rollout), initial_glimpse=None)


def concatenate(viewpoints: Sequence[Viewpoint]) -> Viewpoint:
    """One batch from several."""
    return Viewpoint(
        centers=torch.cat([v.centers for v in viewpoints]),
        scales=torch.cat([v.scales for v in viewpoints]),
    )
