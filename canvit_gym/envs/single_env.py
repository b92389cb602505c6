"""One scene at a time: the vector environment with one row, without the batch axis."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from canvit_gym.envs.rollout import Episode
from canvit_gym.envs.vector_env import CanViTVectorEnv


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
    def episode(self) -> Episode:
        """The episode as it stands, a batch of one; a value, so it may be kept."""
        return self.batch.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        observation, infos = self.batch.reset(seed=seed, options=options)
        return _first(observation), _first(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, infos = self.batch.step(
            np.asarray(action)[None]
        )
        return (
            _first(observation),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _first(infos),
        )

    def render(self) -> np.ndarray | None:
        frames = self.batch.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self.batch.close()


def _first(values: dict[str, Any]) -> dict[str, Any]:
    """Row 0 of a dict of arrays; the vector infos' masks are left out."""
    return {
        key: _first(value) if isinstance(value, dict) else value[0]
        for key, value in values.items()
        if not key.startswith("_")
    }
