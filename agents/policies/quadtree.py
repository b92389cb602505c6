"""Tile by tile: the paper's C2F, F2C and EG-C2F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from canvit_agents.policies.base import Policy
from canvit_gym import Episode, Viewpoint
from canvit_gym.geometry import SAME_PLACE, grid_centers
from canvit_gym.tasks.base import HasEntropyMap


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
        return _best(_draw(generators, len(tiles)), tiles=tiles, order=levels, episode=episode)


@dataclass(frozen=True, kw_only=True)
class FineToCoarse(Policy):
    """The same tiles as CoarseToFine, of as many levels as the glimpses need, finest level first.

    To be played blind: the full scene comes last.
    """

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        tiles, levels = quadtree(min_tiles=self.rollout.budget)
        return _best(_draw(generators, len(tiles)), tiles=tiles, order=-levels, episode=episode)


@dataclass(frozen=True, kw_only=True)
class EntropyCoarseToFine(Policy):
    """CoarseToFine, but within a level always the tile where the belief about the cells in it is
    least certain: highest mean entropy, the first one on ties. Deterministic.

    Raises ValueError where the task says nothing of single cells, or the canvas grid is no power of
    two: then tiles would cut through cells.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.rollout.task, HasEntropyMap):
            raise ValueError(
                "'entropy_coarse_to_fine' looks where the belief about places is uncertain, and "
                "this task has no such belief; leave that policy out, or use CanViT-EmojiSeg-v0 or "
                "CanViT-ADE20K-v0."
            )
        size = self.rollout.glimpse.canvas_grid_size
        if not tiles_keep_cells_whole(size):
            raise ValueError(
                f"'entropy_coarse_to_fine' was given a canvas grid of {size}; it needs a power of "
                "two, such as 32, so leave that policy out or set canvas_grid_size."
            )

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        tiles, levels = quadtree(min_tiles=episode.history.shape[1])
        task = self.rollout.task
        assert isinstance(task, HasEntropyMap)
        entropy = task.entropy_map(episode.belief).cpu()
        scores = mean_over_tiles(entropy, tiles)
        return _best(scores, tiles=tiles, order=levels, episode=episode)


def tiles_keep_cells_whole(canvas_grid_size: int) -> bool:
    """Whether no tile of the quadtree cuts a canvas cell that is smaller than it: the side is a
    power of two."""
    return canvas_grid_size & (canvas_grid_size - 1) == 0


def mean_over_tiles(maps: Tensor, tiles: Tensor) -> Tensor:
    """Means of maps [B, G, G] over the cells whose centres lie in each of the tiles [N, 3]:
    float32 [B, N]; 0 for tiles smaller than a cell that hold no centre."""
    cells = grid_centers(maps.shape[-1])
    inside = ((cells - tiles[:, None, :2]).abs() <= tiles[:, None, 2:]).all(dim=-1).float()
    return maps.flatten(1) @ inside.T / inside.sum(dim=1).clamp(min=1)


def _best(scores: Tensor, *, tiles: Tensor, order: Tensor, episode: Episode) -> Viewpoint:
    """Chooses, of the unvisited tiles [N, 3] of the first level in `order` [N] that has any, the
    one with the highest of its scores [B, N]; of the last level, again, when all are visited."""
    unvisited = ~was_visited(tiles, history=episode.history.cpu())
    level = order.where(unvisited, order.max()).amin(dim=1, keepdim=True)
    choices = unvisited & (order == level)
    chosen = tiles[scores.masked_fill(~choices, -torch.inf).argmax(dim=1)]
    return Viewpoint(centers=chosen[:, :2], scales=chosen[:, 2]).to(episode.device)


def _draw(generators: Sequence[torch.Generator], count: int) -> Tensor:
    return torch.stack([torch.rand(count, generator=g) for g in generators])


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
    return ((history[:, :, None] - tiles).abs() < SAME_PLACE).all(dim=-1).any(dim=1)
