"""Pure, batched stepping: an episode is a value, and looking returns a new one.

So peeking at candidate viewpoints, forking and greedy search need no copies and no undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from canvit_gym.ambient import plain_torch
from canvit_gym.errors import require_choice, require_int
from canvit_gym.geometry import GlimpseSpec, Viewpoint, check_inside, sample_at_viewpoint
from canvit_gym.model.recurrent import State
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.base import Scene
from canvit_gym.tasks.base import Task, require_task

InitialGlimpse = Literal["full_scene"] | None
Precision = Literal["float32", "bfloat16"]


MAX_BUDGET = 100_000
"""Glimpses of an episode at most: its history then takes 1.2 MB a scene, and as much again in an
observation."""


def require_budget(budget: Any) -> int:
    """A number of glimpses to choose; raises ValueError outside 1 .. MAX_BUDGET."""
    what = "the number of glimpses to choose"
    return require_int("budget", budget, at_least=1, at_most=MAX_BUDGET, what=what)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Everything that is known of B scenes after some glimpses.

    scenes: the B scenes. pictures: what CanViT samples, float32 [B, 3, H, W], ImageNet-normalised.
    targets: what the task judges by, such as labels int64 [B] or masks uint8 [B, S, S].
    state: canvas and recurrent CLS.
    history: float32 [B, budget + 1, 3], (row, col, scale) of each glimpse taken, zeros after them.
    glimpses: int64 [B], how many were taken, the initial one included.
    looks: int64 [B], how many were chosen, so without the initial one; `budget` ends the episode.
    stopped: bool [B], whether the episode was ended before its budget was used.
    belief: the task's reading of the state, such as class log-probabilities [B, classes].
    potentials, outcome: the task's verdict on that belief (`tasks.base.Verdict`).
    """

    scenes: tuple[Scene, ...]
    pictures: Tensor
    targets: Tensor
    state: State
    history: Tensor
    glimpses: Tensor
    looks: Tensor
    stopped: Tensor
    belief: Tensor
    potentials: dict[str, Tensor]
    outcome: dict[str, Tensor]

    @property
    def batch_size(self) -> int:
        return len(self.scenes)

    @property
    def device(self) -> torch.device:
        return self.pictures.device

    def select(self, indices: Sequence[int] | np.ndarray | Tensor) -> Episode:
        """The episodes of these scenes, in this order; an index may come twice."""
        where = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        listed = where.tolist()
        if listed == list(range(self.batch_size)):
            return self
        return _map_tensors(lambda x: x[where], self, scenes=tuple(self.scenes[i] for i in listed))

    def put(self, indices: Sequence[int] | np.ndarray | Tensor, other: Episode) -> Episode:
        """A copy in which `other`'s episodes stand at these indices."""
        where = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        listed = where.tolist()
        if listed == list(range(self.batch_size)):
            return other
        scenes = list(self.scenes)
        for i, scene in zip(listed, other.scenes, strict=True):
            scenes[i] = scene
        return _map_tensors(
            lambda x, y: x.index_copy(0, where, y), self, other, scenes=tuple(scenes)
        )


def _map_tensors(function: Any, *episodes: Episode, scenes: tuple[Scene, ...]) -> Episode:
    def apply(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return function(*values)
        if isinstance(first, dict):
            return {key: apply([value[key] for value in values]) for key in first}
        return replace(
            first,
            **{f.name: apply([getattr(v, f.name) for v in values]) for f in fields(first)},
        )

    mapped = {
        f.name: apply([getattr(e, f.name) for e in episodes])
        for f in fields(Episode)
        if f.name != "scenes"
    }
    return Episode(scenes=scenes, **mapped)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Choices of what comes next in B episodes.

    stop: bool [B], where the episode ends without another glimpse.
    viewpoint: where the others look; what it says of those that stop does not matter.
    """

    viewpoint: Viewpoint
    stop: Tensor

    @classmethod
    def look(cls, viewpoint: Viewpoint) -> Choice:
        """Every episode goes on, with these viewpoints."""
        stop = torch.zeros(viewpoint.batch_size, dtype=torch.bool, device=viewpoint.centers.device)
        return cls(viewpoint=viewpoint, stop=stop)

    @property
    def batch_size(self) -> int:
        return len(self.stop)

    def __getitem__(self, index: Tensor) -> Choice:
        """Choices for some of the episodes, by mask or indices."""
        return Choice(viewpoint=self.viewpoint[index], stop=self.stop[index])

    def to(self, device: torch.device | str) -> Choice:
        return Choice(viewpoint=self.viewpoint.to(device), stop=self.stop.to(device))


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How episodes unfold: a frozen model, a task, what a glimpse is, and how many may be chosen.

    `initial_glimpse="full_scene"` shows the whole scene before the first choice; None starts
    blind. `precision="bfloat16"` runs the model under autocast, as the published evaluation does;
    the canvas and the heads stay float32 in any case.

    Raises ValueError for a budget below 1 and for unknown keyword values.
    """

    task: Task
    glimpse: GlimpseSpec
    budget: int = 4
    initial_glimpse: InitialGlimpse = "full_scene"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_task(self.task)
        object.__setattr__(self, "budget", require_budget(self.budget))
        if self.initial_glimpse is not None:
            require_choice("initial_glimpse", self.initial_glimpse, ("full_scene",))
        require_choice("precision", self.precision, get_args(Precision))

    @property
    def device(self) -> torch.device:
        return next(self.task.model.parameters()).device

    @plain_torch
    def start(self, scenes: Sequence[Scene]) -> Episode:
        """New episodes of these scenes, after the initial glimpse where there is one."""
        model, device, batch_size = self.task.model, self.device, len(scenes)
        pictures = torch.from_numpy(np.stack([scene.picture for scene in scenes]))
        pictures = normalize(pictures.to(device))
        targets = self.task.targets(scenes, device=device)
        state = model.init_state(
            batch_size=batch_size, canvas_grid_size=self.glimpse.canvas_grid_size
        )
        history = torch.zeros(batch_size, self.budget + 1, 3, device=device)
        none_yet = torch.zeros(batch_size, dtype=torch.int64, device=device)
        glimpses = none_yet
        if self.initial_glimpse is not None:
            full = Viewpoint.full_scene(batch_size=batch_size, device=device)
            state = self._take_in(pictures, state, full, consume_state=True)
            history[:, 0, 2] = 1
            glimpses = none_yet + 1
        return Episode(
            scenes=tuple(scenes),
            pictures=pictures,
            targets=targets,
            state=state,
            history=history,
            glimpses=glimpses,
            looks=none_yet,
            stopped=torch.zeros_like(none_yet, dtype=torch.bool),
            **self._reading(state, targets),
        )

    @plain_torch
    def look(self, episode: Episode, viewpoint: Viewpoint) -> Episode:
        """The episodes after one more glimpse each, at viewpoints inside the scene.

        Raises ValueError where a viewpoint leaves the scene or an episode has ended.
        """
        _require_one_each("viewpoints", viewpoint.batch_size, episode)
        check_inside(viewpoint)
        self._require_going(episode)
        state = self._take_in(episode.pictures, episode.state, viewpoint)
        rows = torch.arange(episode.batch_size, device=episode.device)
        return replace(
            episode,
            state=state,
            history=episode.history.index_put((rows, episode.glimpses), viewpoint.rows),
            glimpses=episode.glimpses + 1,
            looks=episode.looks + 1,
            **self._reading(state, episode.targets),
        )

    @plain_torch
    def stop(self, episode: Episode, mask: Tensor) -> Episode:
        """The episodes, ended where the mask, bool [B], says so; nothing else changes.

        Raises ValueError where one of those has ended already.
        """
        _require_one_each("entries of a mask", len(mask), episode)
        if not bool(mask.any()):
            return episode
        self._require_going(episode, mask)
        return replace(episode, stopped=episode.stopped | mask)

    @plain_torch
    def act(self, episode: Episode, choice: Choice) -> Episode:
        """The episodes after they looked or stopped: one glimpse for all that look, together.

        Raises ValueError as `look` and `stop` do.
        """
        stopped = self.stop(episode, choice.stop)
        going = (~choice.stop).nonzero()[:, 0]
        if not len(going):
            return stopped
        looked = self.look(episode.select(going), choice.viewpoint[going])
        return stopped.put(going, looked)

    @plain_torch
    def first_state(self, episode: Episode) -> State:
        """The state after the first glimpse of each episode, or the blank one where none has a
        glimpse; computed again, which costs a glimpse."""
        blank = self.task.model.init_state(
            batch_size=episode.batch_size, canvas_grid_size=self.glimpse.canvas_grid_size
        )
        if not bool(episode.glimpses.all()):
            return blank
        first = episode.history[:, 0]
        viewpoint = Viewpoint(centers=first[:, :2].contiguous(), scales=first[:, 2].contiguous())
        return self._take_in(episode.pictures, blank, viewpoint, consume_state=True)

    def finished(self, episode: Episode) -> Tensor:
        """Which episodes have ended, stopped or with their budget used: bool [B]."""
        return episode.stopped | (episode.looks >= self.budget)

    @plain_torch
    def sample(self, episode: Episode, viewpoint: Viewpoint) -> Tensor:
        """Samples what CanViT sees at the viewpoints: float32 [B, 3, g, g], ImageNet-normalised."""
        return self._sample(episode.pictures, viewpoint)

    def _sample(self, pictures: Tensor, viewpoint: Viewpoint) -> Tensor:
        return sample_at_viewpoint(
            spatial=pictures,
            viewpoint=viewpoint,
            glimpse_size_px=self.glimpse.glimpse_size_px,
        )

    def _require_going(self, episode: Episode, where: Tensor | slice = slice(None)) -> None:
        """Raise ValueError where one of all episodes, or of those of a mask, has ended."""
        if bool((episode.looks[where] >= self.budget).any()):
            raise ValueError(
                f"The budget of {self.budget} glimpses is used up; start new episodes, or make "
                "the rollout with a larger budget."
            )
        if bool(episode.stopped[where].any()):
            raise ValueError("An episode was stopped already; start a new one to look again.")

    def _take_in(
        self,
        pictures: Tensor,
        state: State,
        viewpoint: Viewpoint,
        *,
        consume_state: bool = False,
    ) -> State:
        glimpse = self._sample(pictures, viewpoint)
        half = self.precision == "bfloat16"
        with torch.autocast(glimpse.device.type, torch.bfloat16, enabled=half):
            return self.task.model.take_in(
                glimpse=glimpse, state=state, viewpoint=viewpoint, consume_state=consume_state
            )

    def _reading(self, state: State, targets: Tensor) -> dict[str, Any]:
        """The fields of an episode that the task fills."""
        belief = self.task.belief(state)
        verdict = self.task.judge(belief, targets)
        return {"belief": belief, "potentials": verdict.potentials, "outcome": verdict.outcome}


def _require_one_each(what: str, count: int, episode: Episode) -> None:
    if count != episode.batch_size:
        raise ValueError(
            f"{count} {what} were given for {episode.batch_size} scenes; give one for each."
        )
