"""Many scenes at once, one forward for all: the native Gymnasium vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from canvit_gym.ambient import plain_torch
from canvit_gym.envs.actions import ActionKind, make_actions
from canvit_gym.envs.observations import ObservationKind, Observations
from canvit_gym.envs.options import Output, require_cost
from canvit_gym.envs.options import autoreset_mode as autoreset_mode_named
from canvit_gym.envs.rendering import render_episode
from canvit_gym.envs.rollout import Choice, Episode, Rollout
from canvit_gym.envs.transfer import to_numpy
from canvit_gym.errors import require_choice, require_int
from canvit_gym.model.identity import BackboneIdentity
from canvit_gym.scanpaths import measures
from canvit_gym.scenes.base import Scene, Scenes
from canvit_gym.scenes.prefetch import SceneQueue

COUNTS_SAME_STEP = tuple(map(int, gym.__version__.split(".")[:2])) >= (1, 4)
"""Whether Gymnasium's vector RecordEpisodeStatistics counts every step of SAME_STEP environments;
before 1.4 it loses one of every episode but the first."""


MAX_ENVS = 100_000
"""Scenes side by side at most: compact observations of so many take 3 GB."""


class CanViTVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` scenes looked at side by side.

    `reset(seed=s)` gives scene order i the seed s + i, as N single environments with those seeds
    would have. `reset(options={"scene": indices})` plays chosen scenes instead of drawn ones, and
    `options={"reset_mask": mask}` resets some rows only. Autoreset is SAME_STEP by default:
    the observation of a finished row is already the next scene's, and `infos["final_obs"]` and
    `infos["final_info"]` hold how it ended.

    infos, each an array with one entry a row (and a mask `_key`, as Gymnasium does):
    scene: index in the scenes. The task's outcome: label, prediction and correct of a
    classification, and with many classes in_top5; intersection and union, a number for each class,
    of a segmentation.
    viewpoint: float32 [3], (row, col, scale) just looked at; zeros where the row stopped instead.
    potential_before, potential_after: every potential of the task by name, so that a trajectory
    can be rewarded anew offline.
    scanpath: of rows whose episode just ended, what `scanpaths.measures` says of it, by name. Not
    `episode`, because Gymnasium's RecordEpisodeStatistics refuses to find that there.

    `stop_action=True` adds an action that ends the episode with what is known: no glimpse, reward
    0. `glimpse_cost`, in units of the reward, is taken from the reward of every chosen glimpse.

    `output="torch"` leaves observations and rewards on the model's device. `draw_ahead`
    threads make each row's next scene while the model runs, which changes no result: by default
    one, or none where there is one row only.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        *,
        num_envs: int,
        scenes: Scenes,
        rollout: Rollout,
        backbone: BackboneIdentity,
        action: ActionKind = "box",
        cell_scales: Sequence[float] | None = None,
        stop_action: bool = False,
        observation: ObservationKind = "compact",
        reward: str | None = None,
        glimpse_cost: float = 0.0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: Output = "numpy",
        draw_ahead: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        num_envs = require_int("num_envs", num_envs, at_least=1, at_most=MAX_ENVS)
        reward = rollout.task.potential_names[0] if reward is None else reward
        require_choice("reward", reward, rollout.task.potential_names)
        require_choice("output", output, get_args(Output))
        if render_mode is not None:
            require_choice("render_mode", render_mode, self.metadata["render_modes"])
        self.autoreset_mode = autoreset_mode_named(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and not COUNTS_SAME_STEP and num_envs > 1:
            warnings.warn(
                f"In Gymnasium {gym.__version__} the vector wrapper RecordEpisodeStatistics loses "
                "a step of every episode but the first under SAME_STEP; where you use it, give "
                "autoreset_mode='NEXT_STEP' or install Gymnasium 1.4.",
                stacklevel=2,
            )
        self.num_envs = num_envs
        self.scenes, self.rollout, self.backbone = scenes, rollout, backbone
        self.reward, self.glimpse_cost = reward, require_cost(glimpse_cost)
        self.output, self.render_mode = output, render_mode
        self.observations = Observations(rollout=rollout, kind=observation)
        self.actions = make_actions(
            action,
            glimpse=rollout.glimpse,
            cell_grid=self.observations.grid_size,
            cell_scales=rollout.glimpse.cell_scales if cell_scales is None else cell_scales,
            stop_action=stop_action,
        )
        self.single_observation_space = self.observations.space
        self.single_action_space = self.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        threads = int(num_envs > 1) if draw_ahead is None else draw_ahead
        self._queue = SceneQueue(scenes, threads=threads)
        self._now = _Now(
            episode=None,
            indices=np.zeros(num_envs, dtype=np.int64),
            done=np.zeros(num_envs, dtype=bool),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that beliefs distinguish, in the order of their classes."""
        return self.rollout.task.class_names

    @property
    def budget(self) -> int:
        """Glimpses to choose, after which an episode terminates."""
        return self.rollout.budget

    @property
    def has_ended(self) -> np.ndarray:
        """Which rows' episodes have ended and wait for a reset: bool [num_envs]."""
        return self._now.done.copy()

    @property
    def episode(self) -> Episode:
        """The episodes as they stand; a value, so it may be kept."""
        return self._now.known

    @plain_torch
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        self._require_open()
        options = dict(options or {})
        rows = self._rows_to_reset(options.pop("reset_mask", None))
        chosen = options.pop("scene", None)
        if options:
            raise ValueError(
                f"Unknown reset options {sorted(options)}; accepted are 'scene' and 'reset_mask'."
            )
        self._seed_orders(seed, rows)
        numbered = self._queue.next(rows) if chosen is None else self._chosen(chosen, rows)
        after = self._started(self._now, rows, numbered)
        report = self._report(after.known, after.indices)
        infos: dict[str, Any] = {}
        self._put_info(infos, rows, _rows_of(report.info, rows))
        self._become(after, drawn=() if chosen is not None else rows)
        return report.observation, infos

    @plain_torch
    def step(self, actions: Any) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        self._require_open()
        now, before = self._now, self.episode
        choice = self.actions.choice(actions).to(self.rollout.device)
        if choice.batch_size != self.num_envs:
            raise ValueError(
                f"{choice.batch_size} actions were given for {self.num_envs} environments; "
                "give one for each."
            )
        waiting = np.flatnonzero(now.done)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and len(waiting):
            return self._step_and_reset(choice, waiting)
        if len(waiting):
            raise gym.error.ResetNeeded(
                f"Episodes {waiting.tolist()} have ended; reset them with "
                "options={'reset_mask': mask} first."
            )
        looked = self.rollout.act(before, choice)
        report = self._report(looked, now.indices, before=before)
        observation, done = report.observation, report.done
        after = replace(now, episode=looked, done=done.copy())
        everyone = np.arange(self.num_envs)
        ended, going = np.flatnonzero(done), np.flatnonzero(~done)
        infos: dict[str, Any] = {}
        if self.autoreset_mode != AutoresetMode.SAME_STEP or not done.any():
            self._put_info(infos, everyone, report.info)
            self._put_info(infos, ended, self._scanpath(looked, ended))
            self._become(after)
            return observation, report.reward, done, np.zeros_like(done), infos
        infos["final_obs"] = _final_observations(report.observation, done)
        infos["_final_obs"] = infos["_final_info"] = done
        infos["final_info"] = {}
        self._put_info(infos["final_info"], ended, _rows_of(report.info, ended))
        self._put_info(infos["final_info"], ended, self._scanpath(looked, ended))
        after = self._started(after, ended, self._queue.next(ended))
        fresh = self._report(after.known.select(ended), after.indices[ended])
        self._put_info(infos, going, _rows_of(report.info, going))
        self._put_info(infos, ended, fresh.info)
        observation = _with_rows(observation, ended, fresh.observation)
        self._become(after, drawn=ended)
        return observation, report.reward, done, np.zeros_like(done), infos

    def _step_and_reset(
        self, choice: Choice, waiting: np.ndarray
    ) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """NEXT_STEP autoreset: rows that ended a step ago start anew, the others look or stop."""
        after, before = self._now, self.episode
        going = np.flatnonzero(~after.done)
        reward: Any = torch.zeros(self.num_envs, device=self.rollout.device)
        if self.output == "numpy":
            reward = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        if len(going):
            some = before.select(going)
            looked = self.rollout.act(some, choice[torch.from_numpy(going).to(before.device)])
            after = replace(after, episode=before.put(going, looked))
            acted = self._report(looked, after.indices[going], before=some)
            reward[going] = acted.reward
            self._put_info(infos, going, acted.info)
            ended = going[acted.done]
            self._put_info(infos, ended, self._scanpath(after.known, ended))
        after = self._started(after, waiting, self._queue.next(waiting))
        report = self._report(after.known, after.indices)
        self._put_info(infos, waiting, _rows_of(report.info, waiting))
        self._become(replace(after, done=report.done), drawn=waiting)
        truncated = np.zeros(self.num_envs, dtype=bool)
        return report.observation, reward, report.done.copy(), truncated, infos

    @plain_torch
    def render(self) -> tuple[np.ndarray, ...] | None:
        """One uint8 [H, W, 3] picture a row; see `rendering.render_episode`."""
        self._require_open()
        if self.render_mode is None:
            return None
        return tuple(
            render_episode(self.episode.select([i]), rollout=self.rollout)
            for i in range(self.num_envs)
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads that draw scenes ahead."""
        self._queue.close()

    # What changes is set last: an interruption leaves the environment before a step or after it.

    def _become(self, after: _Now, *, drawn: Iterable[int] = ()) -> None:
        """Let this be how things stand. drawn: the rows that took their next scene."""
        self._now = after
        self._queue.took(drawn)
        self._queue.draw_ahead()

    def _require_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError(
                "This environment was closed; make a new one to go on."
            )

    # Scenes: which ones come next.

    def _rows_to_reset(self, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask has shape {mask.shape} and dtype {mask.dtype}; give a bool array "
                f"[{self.num_envs}] with at least one True."
            )
        if self._now.episode is None and not mask.all():
            raise gym.error.ResetNeeded("The first reset must reset every row; leave the mask out.")
        return np.flatnonzero(mask)

    def _seed_orders(self, seed: int | Sequence[int | None] | None, rows: np.ndarray) -> None:
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            seeds = [None if s is None else _seed(s) for s in seed]
        else:
            seeds = [_seed(seed) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"{len(seeds)} seeds were given for {self.num_envs} environments; "
                "give one for each, or one number."
            )
        for i in rows.tolist():
            if seeds[i] is not None or i not in self._queue:
                self._queue.restart(i, seeding.np_random(seeds[i])[0])

    def _chosen(self, chosen: int | Sequence[int], rows: np.ndarray) -> list[tuple[int, Scene]]:
        indices = np.atleast_1d(np.asarray(chosen))
        if indices.shape != rows.shape or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"options['scene'] is {chosen!r}; give {len(rows)} scene indices, one for each "
                "environment that is reset."
            )
        return [(i, self.scenes[i]) for i in indices.tolist()]

    def _started(self, now: _Now, rows: np.ndarray, numbered: list[tuple[int, Scene]]) -> _Now:
        """New episodes in these rows, of these scenes with their indices."""
        numbers, scenes = zip(*numbered, strict=True)
        started = self.rollout.start(scenes)
        indices, done = now.indices.copy(), now.done.copy()
        indices[rows], done[rows] = numbers, False
        episode = started if now.episode is None else now.episode.put(rows, started)
        return _Now(episode=episode, indices=indices, done=done)

    # What goes out.

    def _reward(self, before: Episode, after: Episode) -> torch.Tensor:
        """Rewards: what the potential gained, less the price of the glimpse where one was taken."""
        gained = after.potentials[self.reward] - before.potentials[self.reward]
        return gained - self.glimpse_cost * (after.looks - before.looks)

    def _report(
        self, episode: Episode, indices: np.ndarray, *, before: Episode | None = None
    ) -> _Report:
        """Reports on episodes of the scenes with these indices, and of what was done
        since `before`."""
        info: dict[str, Any] = {**episode.outcome, "potential_after": episode.potentials}
        own: dict[str, Any] = {"done": self.rollout.finished(episode), "info": info}
        out: dict[str, Any] = {"observation": self.observations.observe(episode)}
        if before is not None:
            place = before.glimpses[:, None, None].expand(-1, 1, 3)
            info["viewpoint"] = episode.history.gather(1, place)[:, 0]
            info["potential_before"] = before.potentials
            out["reward"] = self._reward(before, episode)
        if self.output == "torch":
            own = to_numpy(own)
        else:
            own = out = to_numpy(own | out)
        reward = out.get("reward")
        return _Report(
            observation=out["observation"],
            reward=reward.astype(np.float64) if isinstance(reward, np.ndarray) else reward,
            done=own["done"],
            info={"scene": indices.copy(), **own["info"]},
        )

    def _scanpath(self, episode: Episode, rows: np.ndarray) -> dict[str, Any]:
        """Measures of the scanpaths of the rows' episodes, which have ended."""
        history = episode.history[torch.from_numpy(rows).to(self.rollout.device)]
        given = self.rollout.initial_glimpse is not None
        return {"scanpath": measures(history.cpu().numpy(), initial_glimpse=given)}

    def _put_info(self, infos: dict[str, Any], rows: np.ndarray, values: dict[str, Any]) -> None:
        """Write the values [len(rows), ...] into info arrays [num_envs, ...] with their masks."""
        if not len(rows):  # no row has such a key
            return
        for key, value in values.items():
            mask = infos.setdefault(f"_{key}", np.zeros(self.num_envs, dtype=bool))
            mask[rows] = True
            if isinstance(value, dict):
                self._put_info(infos.setdefault(key, {}), rows, value)
                continue
            shape = (self.num_envs, *value.shape[1:])
            infos.setdefault(key, np.zeros(shape, dtype=value.dtype))[rows] = value


@dataclass(frozen=True, kw_only=True)
class _Now:
    """How things stand. episode: None before the first reset. indices: int64 [num_envs], of the
    scenes. done: bool [num_envs], which episodes have ended."""

    episode: Episode | None
    indices: np.ndarray
    done: np.ndarray

    @property
    def known(self) -> Episode:
        if self.episode is None:
            raise gym.error.ResetNeeded("No scene has been drawn yet; call reset() first.")
        return self.episode


class _Report(NamedTuple):
    """observation and reward as `output` wants them, done and info as arrays; reward is None where
    there was no look."""

    observation: dict[str, Any]
    reward: Any
    done: np.ndarray
    info: dict[str, Any]


def _seed(value: Any) -> int:
    return require_int("seed", value, at_least=0)


def _rows_of(values: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {
        key: _rows_of(value, rows) if isinstance(value, dict) else value[rows]
        for key, value in values.items()
    }


def _with_rows(whole: dict[str, Any], rows: np.ndarray, part: dict[str, Any]) -> dict[str, Any]:
    """Observations [num_envs, ...] with those of `part` in these rows."""
    if all(len(part[key]) == len(value) for key, value in whole.items()):
        return part
    mixed = {}
    for key, value in whole.items():
        mixed[key] = value.clone() if isinstance(value, torch.Tensor) else value.copy()
        mixed[key][rows] = part[key]
    return mixed


def _final_observations(observation: dict[str, Any], done: np.ndarray) -> np.ndarray:
    """Gymnasium's form: an object array with one observation for each row that ended."""
    rows = np.full(len(done), None, dtype=object)
    for i in np.flatnonzero(done):
        rows[i] = {key: value[i] for key, value in observation.items()}
    return rows
