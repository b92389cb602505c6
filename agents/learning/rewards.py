"""Rewards for a learner that an environment alone can not pay."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from canvit_gym.adapters.sb3 import CanViTVecEnv
from canvit_gym.tasks.base import LabelsPlaces

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


class IoUTally:
    """Intersections and unions of the classes in the scenes seen last, and what changes of them do
    to the IoU of a dataset of such scenes.

    A dataset's IoU is the ratio of sums over all its scenes, averaged over classes, so a pixel of a
    rare class counts for more than one of a frequent class; a scene's own IoU knows nothing of
    that. With I and U the intersection and union of a class per scene, a change by dI and dU in one
    scene adds, to first order, the mean over classes of (dI - I / U dU) / U.
    """

    def __init__(self, num_classes: int) -> None:
        self._areas = np.zeros((2, num_classes))
        self._scenes = 0.0

    def add(self, areas: np.ndarray) -> None:
        """Intersections and unions [2, scenes, classes] at the end of episodes."""
        self._areas = _MEMORY * self._areas + areas.sum(axis=1)
        self._scenes = _MEMORY * self._scenes + areas.shape[1]

    @property
    def worth(self) -> np.ndarray:
        """The worth of a pixel more of a class' intersection and of its union: float64 [2,
        classes]; 0 for classes that nobody has seen."""
        intersection, union = self._areas
        known = union > 0
        area = np.where(known, union, 1)
        per_union = known * self._scenes / (max(known.sum(), 1) * area)
        return np.stack([per_union, -intersection / area * per_union])

    def gain(self, change: np.ndarray) -> np.ndarray:
        """Returns the gain of changes [2, rows, classes]: float64 [rows]."""
        return np.einsum("arc,ac->r", change, self.worth)


class DatasetIoUReward(VecEnvWrapper):
    """Pays what a glimpse adds to the mean IoU of the whole dataset (see `IoUTally`), so that the
    sums over episodes have the mean by which the metric grew. Pays nothing before the first
    episodes have ended."""

    def __init__(self, venv: CanViTVecEnv) -> None:
        super().__init__(venv)
        self.canvit_env = venv
        task = venv.envs.rollout.task
        if not isinstance(task, LabelsPlaces):
            raise ValueError(
                f"dataset_iou_reward is for tasks that label places, and {type(task).__name__} "
                "does not; leave it out of the hyperparameters."
            )
        self.tally = IoUTally(len(task.class_names))

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
            self.tally.add(after[:, dones])
        rewards = self.tally.gain(after - self._before)
        self._before = begun
        return observations, rewards.astype(np.float32), dones, infos


def _areas(infos: dict[str, Any]) -> np.ndarray:
    """Intersections and unions, float64 [2, rows, classes]."""
    return np.stack([infos["intersection"], infos["union"]]).astype(np.float64)
