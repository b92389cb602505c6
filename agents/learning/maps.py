"""Maps of places that a warm start learns: where the target is, or what a look would gain where.

Both say what each listed crop would gain at each of some places, which is what `learning.planning`
plans by, and both learn from every glimpse: the first from where the targets of generated scenes
are, the second from what each glimpse did for every cell that it showed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canvit_agents.learning.planning import Planner
from canvit_agents.learning.rewards import IoUTally
from canvit_agents.policies.networks import crop_sums, mostly_shown
from canvit_agents.policies.quadtree import quadtree, was_visited
from canvit_agents.policies.target import target_box
from canvit_gym import Episode, Task
from canvit_gym.envs.actions import ListedActions
from canvit_gym.geometry import grid_centers
from canvit_gym.scenes.base import IGNORE
from canvit_gym.tasks.base import LabelsPlaces, ScoresPlaces

# Shares of the target's box. On 512 train scenes of CanViT-Emoji-v0, glimpses at scale 0.25 that
# showed 20 to 40 % of it gained a tenth of what those gained that showed all of it, and those that
# showed 60 to 80 % nine tenths.
_NOTHING, _ENOUGH = 0.3, 0.7

_ERRORS = 30.0
"""The weight of squared errors of gains beside what the policy imitates, which shares the features.
From 24,000 states of EmojiSeg's last glimpses, gains of 16 glimpses each were predicted with a
correlation of 0.29 with 1, 0.39 with 10, and 0.40 with 30 or without imitation."""

_FINER = 2
"""Places a side of a cell where targets may be."""


class PlaceMap(nn.Module, ABC):
    """A head on a feature map, what it says of places, and what it learns from.

    head: reads features [B, channels, grid, grid]. planned: bool [A], the actions that plans of
    several glimpses are made of; planner: of those. last_glimpses: how many last glimpses of an
    episode, from the same state, there is something to learn from.
    """

    planned: Tensor
    last_glimpses: int

    def __init__(self, *, head: nn.Conv2d, planned: Tensor, planner: Planner) -> None:
        super().__init__()
        self.head, self.planner = head, planner
        self.register_buffer("planned", planned, persistent=False)

    @abstractmethod
    def values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what each action would gain at once, float32 [B, A], and what each place has to
        give to plans, float32 [B, P]."""

    @abstractmethod
    def lesson(
        self, before: Episode, actions: Tensor, afters: Sequence[Episode]
    ) -> dict[str, Tensor]:
        """Returns what is learned from K glimpses of each of B scenes, from the same state, actions
        int64 [B, K]: tensors [B, ...] by name, whose shapes do not depend on K; `weight` float32
        [B] among them: how much the states before matter."""

    @abstractmethod
    def loss(self, features: Tensor, lesson: dict[str, Tensor]) -> Tensor: ...


class TargetMap(PlaceMap):
    """Where the target is: one distribution over a grid twice as fine as the canvas.

    `scale_values`: how often a glimpse names the target that it shows, at each of the action
    space's scales, in its order.
    """

    last_glimpses = 1  # where the target is does not depend on them

    def __init__(
        self, *, actions: ListedActions, channels: int, grid_size: int,
        scale_values: Sequence[float], target_size: float,
    ) -> None:  # fmt: skip
        side = _FINER * grid_size
        places = grid_centers(side)
        boxes = torch.cat((places - target_size / 2, places + target_size / 2), dim=1).clamp(-1, 1)
        crops = actions.viewpoints.rows
        worth = torch.tensor(scale_values)[_scale_indices(actions)]
        super().__init__(
            head=nn.Conv2d(channels, _FINER**2, 1),
            planned=torch.ones(len(crops), dtype=torch.bool),
            planner=Planner(worth[:, None] * shown_enough(crops, boxes)),
        )
        self.side = side

    def values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        probability = self._logits(features).softmax(dim=1)
        return probability @ self.planner.detail.T, probability

    def lesson(
        self, before: Episode, actions: Tensor, afters: Sequence[Episode]
    ) -> dict[str, Tensor]:
        """Raises ValueError for scenes that do not say where their target is."""
        boxes = torch.stack([target_box(scene) for scene in before.scenes])
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        row, col = ((middle + 1) / 2 * self.side).long().clamp(0, self.side - 1).unbind(dim=1)
        # Once the target is named there is nothing left to look for.
        return {"place": row * self.side + col, "weight": 1 - before.potentials["prob"].cpu()}

    def loss(self, features: Tensor, lesson: dict[str, Tensor]) -> Tensor:
        each = F.cross_entropy(self._logits(features), lesson["place"], reduction="none")
        return (each * lesson["weight"]).sum() / lesson["weight"].sum().clamp(min=1e-6)

    def _logits(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(self.head(features), _FINER).flatten(1)


class Worth(Protocol):
    """What each place of a scene adds to a metric."""

    def see_end(self, episode: Episode) -> None:
        """Take note of episodes that have ended."""
        ...

    def __call__(self, episode: Episode) -> Tensor:
        """Returns what each pixel adds: float32 [B, S, S]."""
        ...


class IoUWorth:
    """Worth in the mean IoU of the dataset (see `learning.rewards.IoUTally`), expected under the
    belief, which says more than the class that it finds most probable."""

    def __init__(self, task: LabelsPlaces) -> None:
        self.task, self.tally = task, IoUTally(len(task.class_names))

    def see_end(self, episode: Episode) -> None:
        areas = [episode.outcome[name].cpu().numpy() for name in ("intersection", "union")]
        self.tally.add(np.stack(areas).astype(np.float64))

    def __call__(self, episode: Episode) -> Tensor:
        of_intersection, of_union = torch.from_numpy(self.tally.worth).to(
            episode.device, torch.float32
        )
        probs, labelled = self.task.probabilities(episode.belief), episode.targets != IGNORE
        labels = episode.targets.long().masked_fill(~labelled, 0)
        at_label = probs.gather(1, labels[:, None])[:, 0]
        called = torch.einsum("bcij,c->bij", probs, of_union)  # each call adds to its class' union
        worth = called + at_label * (of_intersection - of_union)[labels] + of_union[labels]
        return worth * labelled


class ScoreWorth:
    """Worth in the mean of the task's scores of places."""

    def __init__(self, task: ScoresPlaces) -> None:
        self.task = task

    def see_end(self, episode: Episode) -> None:
        pass

    def __call__(self, episode: Episode) -> Tensor:
        scores = self.task.place_scores(episode.belief, episode.targets)
        return scores / scores[0].numel()


def worth_of(task: Task) -> Worth:
    """Returns how a task's places are worth something; raises ValueError where it scores none."""
    if isinstance(task, LabelsPlaces):
        return IoUWorth(task)
    if isinstance(task, ScoresPlaces):
        return ScoreWorth(task)
    raise ValueError(
        f"map is 'gain', which needs a task that scores places, and {type(task).__name__} does "
        "not; use it with segmentation or depth, or leave warm_start out of the hyperparameters."
    )


class GainMap(PlaceMap):
    """A map of what a look at each cell would gain there, at each scale, in the task's metric.

    Plans are tiles, quarters of the scene that leave no gaps: sets of crops that overlap promise
    more than they keep, because the best of many noisy estimates is too good to be true. With the
    last glimpse nothing has to fit beside it, and every place and scale is considered; so several
    are tried there, which tells what those that promise most really gain.
    """

    last_glimpses = 4

    def __init__(
        self, *, task: Task, actions: ListedActions, channels: int, grid_size: int
    ) -> None:
        worth = worth_of(task)
        crops = actions.viewpoints.rows
        shown = mostly_shown(crops, grid_size=grid_size)
        tiles, levels = quadtree(min_tiles=5)
        planned = was_visited(crops, history=tiles[None, levels == 1])[0]
        if not planned.any():
            raise ValueError(
                f"None of the scales {actions.scales} is 0.5, of which plans are made; add it to "
                "cell_scales."
            )
        super().__init__(
            head=nn.Conv2d(channels, len(actions.scales), 1),
            planned=planned,
            planner=Planner((shown[planned] > 0).float()),
        )
        self.register_buffer("shown", shown, persistent=False)
        self.shown: Tensor
        self.register_buffer("scale_indices", _scale_indices(actions), persistent=False)
        self.scale_indices: Tensor
        self.worth, self.grid_size = worth, grid_size

    def values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        gains = self.head(features).flatten(2) / self.shown.shape[1]  # [B, scales, P]
        tile_scale = self.scale_indices[self.planned][0]
        return crop_sums(gains, self.shown), gains[:, tile_scale]

    def lesson(
        self, before: Episode, actions: Tensor, afters: Sequence[Episode]
    ) -> dict[str, Tensor]:
        first = afters[0]
        if bool((first.glimpses == first.history.shape[1]).all()):  # the episodes have ended
            self.worth.see_end(first)
        worth = self._worth(before)
        gained = torch.stack([self._worth(after) - worth for after in afters], dim=1)
        not_tried = self.last_glimpses - len(afters)  # these show nothing
        return {
            "gained": F.pad(gained.cpu(), (0, 0, 0, not_tried)),
            "scale": F.pad(self.scale_indices[actions], (0, not_tried)),
            "shown": F.pad((self.shown[actions] > 0).float(), (0, 0, 0, not_tried)),
            "weight": torch.ones(len(actions)),
        }

    def loss(self, features: Tensor, lesson: dict[str, Tensor]) -> Tensor:
        rows = torch.arange(len(features), device=features.device)[:, None]
        predicted = self.head(features).flatten(2)[rows, lesson["scale"]]  # [B, K, P]
        errors = (predicted - lesson["gained"]).square() * lesson["shown"]
        return _ERRORS * errors.sum() / lesson["shown"].sum().clamp(min=1)

    def _worth(self, episode: Episode) -> Tensor:
        """Returns what each cell adds to the metric, times the number of cells: float32 [B, P]."""
        worth = self.worth(episode)
        pixels = worth[0].numel()
        return pixels * F.adaptive_avg_pool2d(worth[:, None], self.grid_size).flatten(1)


def shown_enough(crops: Tensor, boxes: Tensor) -> Tensor:
    """How well crops [A, 3], (row, col, scale), show boxes [P, 4], (top, left, bottom, right), all
    in the scene frame: float32 [A, P], 0 where they show too little, 1 where they show enough."""
    centers, scales = crops[:, None, :2], crops[:, None, 2:]
    low, high = boxes[:, :2], boxes[:, 2:]
    edges = torch.minimum(high, centers + scales) - torch.maximum(low, centers - scales)
    share = (edges.clamp(min=0) / (high - low)).prod(dim=-1)
    return ((share - _NOTHING) / (_ENOUGH - _NOTHING)).clamp(0, 1)


def _scale_indices(actions: ListedActions) -> Tensor:
    """Which of the scales each action has: int64 [A]."""
    scales = [round(scale, 4) for scale in actions.viewpoints.scales.tolist()]
    return torch.tensor([actions.scales.index(scale) for scale in scales])
