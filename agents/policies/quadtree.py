"""Tile by tile: the paper's C2F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.policies.base import Policy
from canvit_gym.envs.rollout import Episode
from canvit_gym.geometry import Viewpoint, grid_centers

_SAME = 1e-4  # two viewpoints closer than this, in scene units, are the same tile


@dataclass(frozen=True, kw_only=True)
class CoarseToFine(Policy):
    """The full scene, then its 4 quarters, then its 16 sixteenths, and so on; at random within a
    level, each tile once.

    Chosen uniformly among the unvisited tiles of the coarsest level that has any: the same
    distribution as the paper's random order of each level. Where t0 is the full scene, level 0 is
    done with it.
    """

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        tiles, levels = quadtree(min_tiles=episode.history.shape[1])
        unvisited = ~was_visited(tiles, history=episode.history.cpu())
        level = levels.where(unvisited, levels[-1]).amin(dim=1, keepdim=True)
        choices = unvisited & (levels == level)
        draws = torch.stack([torch.rand(len(tiles), generator=g) for g in generators])
        chosen = tiles[draws.where(choices, -1).argmax(dim=1)]
        return Viewpoint(centers=chosen[:, :2], scales=chosen[:, 2]).to(episode.device)


def quadtree(*, min_tiles: int) -> tuple[Tensor, Tensor]:
    """The tiles of as many whole levels as hold `min_tiles`, coarse to fine, row-major in each.

    Returns float32 [N, 3], (row, col, scale), and the level of each, int64 [N].
    """
    tiles: list[Tensor] = []
    levels: list[int] = []
    while len(levels) < min_tiles:
        level = len(tiles)
        centers = grid_centers(2**level)
        tiles.append(torch.cat((centers, torch.full((len(centers), 1), 2.0**-level)), dim=1))
        levels += [level] * len(centers)
    return torch.cat(tiles), torch.tensor(levels)


def was_visited(tiles: Tensor, *, history: Tensor) -> Tensor:
    """Which tiles [N, 3] are among an episode's glimpses: bool [B, N]. Unused rows of the history
    have scale 0, which no tile has."""
    return ((history[:, :, None] - tiles).abs() < _SAME).all(dim=-1).any(dim=1)
