"""Rewards for a learner that an environment alone can not pay."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from canvit_gym.sb3 import CanViTVecEnv

_MEMORY = 0.99  # of the tallies, at every end of episodes


class ClipReward(VecEnvWrapper):
    """Limits what the learner sees of a step's reward; episode statistics stay unclipped."""

    def __init__(self, venv: CanViTVecEnv | VecEnvWrapper, *, limit: float) -> None:
        super().__init__(venv)
        self.limit = limit

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards.clip(-self.limit, self.limit), dones, infos


class DatasetIoUReward(VecEnvWrapper):
    """Pays what a glimpse adds to the mean IoU of the whole dataset, to first order.

    A dataset's IoU is the ratio of sums over all its scenes, averaged over classes, so a pixel of a
    rare class counts for more than one of a frequent class; a scene's own IoU knows nothing of
    that. With I and U the intersection and union of a class, per scene, at the end of the last
    thousands of episodes, a step pays the mean over classes of (dI - I / U dU) / U. So the sums
    over episodes have the mean by which the metric grew.
    """

    def __init__(self, venv: CanViTVecEnv) -> None:
        super().__init__(venv)
        self.canvit_env = venv
        self._tallies: np.ndarray | None = None  # intersection and union, [2, classes]
        self._scenes = 0.0

    def reset(self) -> Any:
        observation = self.venv.reset()
        self._before = _areas(self.canvit_env.infos)
        return observation

    def step_wait(self) -> VecEnvStepReturn:
        observations, _, dones, infos = self.venv.step_wait()
        begun = _areas(self.canvit_env.infos)  # of rows that ended, the next scene's
        after = begun.copy()
        if dones.any():
            after[:, dones] = _areas(self.canvit_env.infos["final_info"])[:, dones]
            kept = 0.0 if self._tallies is None else _MEMORY
            ended = after[:, dones].sum(axis=1)
            self._tallies = ended if self._tallies is None else kept * self._tallies + ended
            self._scenes = kept * self._scenes + dones.sum()
        rewards = self._gain(after - self._before)
        self._before = begun
        return observations, rewards.astype(np.float32), dones, infos

    def _gain(self, change: np.ndarray) -> np.ndarray:
        """Of changes [2, rows, classes]: float64 [rows]."""
        if self._tallies is None:  # no episode has ended yet
            return np.zeros(change.shape[1])
        intersection, union = self._tallies
        known = union > 0
        share = intersection[known] / union[known]
        per_scene = union[known] / self._scenes
        gained = (change[0][:, known] - share * change[1][:, known]) / per_scene
        return gained.sum(axis=1) / max(known.sum(), 1)


def _areas(infos: dict[str, Any]) -> np.ndarray:
    """Intersections and unions, float64 [2, rows, classes]."""
    return np.stack([infos["intersection"], infos["union"]]).astype(np.float64)
