"""Observations of an episode: CanViT's own features, small enough to keep many of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from canvit_gym.ambient import plain_torch
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.errors import require_choice
from canvit_gym.tasks.base import HasEntropyMap

ObservationKind = Literal["compact", "full"]

_COMPACT_BYTES = 32 * 1024
_COMPACT_GRID = 8
_COMPACT_CHANNELS = 96
_PROJECTION_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Observations:
    """The observation space and its function.

    canvas: float32 [channels, grid, grid], canvas patches after a token-wise LayerNorm. `compact`
        keeps them whole where they fit 32 KiB, as the mini's do; larger ones are averaged over
        blocks down to an 8 x 8 grid and projected to 96 channels by a fixed random orthogonal
        matrix, which keeps distances well. `full` is never reduced.
    cls: float32 [D], LayerNormed recurrent CLS.
    viewpoints: float32 [budget + 1, 4], (row, col, scale, 1) of each glimpse taken, zeros after.
    progress: float32 [1], share of the budget used.
    entropy: float32 [1, grid, grid], in [0, 1], only of tasks whose belief says something of every
        cell: its entropy there, from the lowest there can be to the highest; averaged where the
        canvas is.
    """

    rollout: Rollout
    kind: ObservationKind = "compact"

    def __post_init__(self) -> None:
        require_choice("observation", self.kind, get_args(ObservationKind))

    @property
    def _canvas_dim(self) -> int:
        return self.rollout.task.model.map_dim

    @property
    def _reduced(self) -> bool:
        full_bytes = 4 * self._canvas_dim * self.rollout.glimpse.canvas_grid_size**2
        return self.kind == "compact" and full_bytes > _COMPACT_BYTES

    @property
    def grid_size(self) -> int:
        """Side of the observed canvas; also the grid of `cell` actions."""
        canvas_grid = self.rollout.glimpse.canvas_grid_size
        return min(_COMPACT_GRID, canvas_grid) if self._reduced else canvas_grid

    @property
    def channels(self) -> int:
        return min(_COMPACT_CHANNELS, self._canvas_dim) if self._reduced else self._canvas_dim

    @cached_property
    def _projection(self) -> Tensor:
        """Orthonormal columns, float32 [C, channels], the same on every machine up to rounding."""
        generator = torch.Generator().manual_seed(_PROJECTION_SEED)
        gaussian = torch.randn(
            self._canvas_dim, self.channels, generator=generator, dtype=torch.float64
        )
        q, r = torch.linalg.qr(gaussian)
        return (q * r.diagonal().sign()).float().to(self.rollout.device)

    @cached_property
    def _pooling(self) -> Tensor:
        """Means over the canvas' rows, or columns, that an observed one covers: [grid, G]."""
        everything = torch.eye(self.rollout.glimpse.canvas_grid_size, device=self.rollout.device)
        return F.adaptive_avg_pool1d(everything, self.grid_size).T

    @property
    def space(self) -> spaces.Dict:
        dim, steps = self.rollout.task.model.vector_dim, self.rollout.budget + 1
        # A LayerNormed token of n numbers has length sqrt(n), so no coordinate can exceed that.
        canvas_reach, cls_reach = math.sqrt(self._canvas_dim), math.sqrt(dim)
        canvas_shape = (self.channels, self.grid_size, self.grid_size)
        boxes: dict[str, spaces.Space[Any]] = {
            "canvas": spaces.Box(-canvas_reach, canvas_reach, canvas_shape, np.float32),
            "cls": spaces.Box(-cls_reach, cls_reach, (dim,), np.float32),
            "viewpoints": spaces.Box(-1.0, 1.0, (steps, 4), np.float32),
            "progress": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        if isinstance(self.rollout.task, HasEntropyMap):
            entropy_shape = (1, self.grid_size, self.grid_size)
            boxes["entropy"] = spaces.Box(0.0, 1.0, entropy_shape, np.float32)
        return spaces.Dict(boxes)

    @plain_torch
    def observe(self, episode: Episode) -> dict[str, Tensor]:
        """Observations of B episodes, each as in the space with B in front."""
        if self._reduced:
            tokens = self._reduced_map(episode)
        else:
            tokens = self.rollout.task.model.feature_map(episode.state)
        canvas = tokens.mT.reshape(episode.batch_size, -1, self.grid_size, self.grid_size)
        steps = torch.arange(episode.history.shape[1], device=episode.device)
        taken = (steps < episode.glimpses[:, None]).float()
        observation = {
            "canvas": canvas.contiguous(),
            "cls": self.rollout.task.model.feature_vector(episode.state),
            "viewpoints": torch.cat((episode.history, taken[..., None]), dim=-1),
            "progress": (episode.looks.float() / self.rollout.budget)[:, None],
        }
        task = self.rollout.task
        if isinstance(task, HasEntropyMap):
            low, high = task.entropy_range
            entropy = (task.entropy_map(episode.belief) - low) / (high - low)
            if self._reduced:
                entropy = self._pooling @ entropy @ self._pooling.T
            observation["entropy"] = entropy[:, None].clamp(0, 1)
        return observation

    def _reduced_map(self, episode: Episode) -> Tensor:
        """The feature map, averaged over blocks and projected: [B, grid^2, channels]."""
        size, batch_size = self.rollout.glimpse.canvas_grid_size, episode.batch_size
        # On a CPU scene by scene, because one normalised canvas stays in the cache.
        at_once = 1 if episode.device.type == "cpu" else batch_size
        blocks = []
        for first in range(0, batch_size, at_once):
            some = episode.state[first : first + at_once]
            tokens = self.rollout.task.model.feature_map(some)
            rows = self._pooling @ tokens.unflatten(1, (size, size)).flatten(2)
            cells = self._pooling @ rows.unflatten(2, (size, -1))
            blocks.append(cells.flatten(1, 2) @ self._projection)
        return torch.cat(blocks)
