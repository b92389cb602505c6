"""One scene at a time: the vector environment with one row, without the batch axis."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from canvit_gym.envs.rollout import Episode
from canvit_gym.envs.rows import row
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.errors import require_int
from canvit_gym.scenes.base import Scenes


class CanViTEnv(gym.Env[Any, Any]):
    """Look at a scene up to `budget` times; be rewarded by how much better the task is solved.

    Keyword arguments are CanViTVectorEnv's. `reset(seed=s)` fixes scene order and content;
    `reset(options={"scene": index})` plays one chosen scene.
    """

    metadata: dict[str, Any] = CanViTVectorEnv.metadata

    def __init__(self, *, render_mode: str | None = None, **kwargs: Any) -> None:
        self.batch = CanViTVectorEnv(
            num_envs=1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            **kwargs,
        )
        self.render_mode = render_mode
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    @property
    def scenes(self) -> Scenes:
        """Where scenes are drawn from."""
        return self.batch.scenes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that beliefs distinguish, in the order of their classes."""
        return self.batch.class_names

    @property
    def budget(self) -> int:
        """Glimpses to choose, after which an episode terminates. `spec.max_episode_steps` stays
        None: with it Gymnasium would truncate episodes that have terminated by themselves."""
        return self.batch.budget

    @property
    def episode(self) -> Episode:
        """The episode as it stands, a batch of one; a value, so it may be kept."""
        return self.batch.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed = require_int("seed", seed, at_least=0)
        super().reset(seed=seed)
        observation, infos = self.batch.reset(seed=seed, options=options)
        return row(observation, 0), row(infos, 0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.batch.has_ended.all() and not self.batch.closed:
            raise gym.error.ResetNeeded("The episode has ended; call reset() for the next scene.")
        one = action[None] if isinstance(action, torch.Tensor) else [action]
        observation, reward, terminated, truncated, infos = self.batch.step(one)
        return (
            row(observation, 0),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            row(infos, 0),
        )

    def render(self) -> np.ndarray | None:
        frames = self.batch.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self.batch.close()
