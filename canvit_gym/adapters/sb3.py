"""Stable-Baselines3 on the native vector environment: one forward for all scenes, no subprocesses.

`PPO("MultiInputPolicy", make_sb3_env("CanViT-Emoji-v0", num_envs=64)).learn(100_000)`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from canvit_gym.envs.rows import row
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.errors import missing_extra, require_int

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ModuleNotFoundError as error:
    raise missing_extra(
        "canvit_gym.adapters.sb3", package="stable-baselines3", extra="agents"
    ) from error


def make_sb3_env(
    env_id: str, *, num_envs: int, seed: int | None = None, **env_kwargs: Any
) -> CanViTVecEnv:
    """`num_envs` environments of a registered id for Stable-Baselines3; `env_kwargs` are the id's.

    With a seed, row i draws its scenes as a single environment with the seed `seed + i` does.
    """
    if seed is not None:
        seed = require_int("seed", seed, at_least=0)
    envs = gym.make_vec(
        env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **env_kwargs
    )
    venv = CanViTVecEnv(envs)  # type: ignore[arg-type]  # make_vec returns the entry point's own
    if seed is not None:
        venv.seed(seed)
    return venv


class CanViTVecEnv(VecEnv):
    """A SAME_STEP vector environment as Stable-Baselines3 wants it.

    The infos of rows that ended an episode hold `terminal_observation`, `episode` (return r, length
    l, seconds t, and the measures of its scanpath), the scene's `final_info` and, where the task
    says whether a scene is solved, `is_success`; those of other rows are kept bare, because SB3
    wants one dict a row.
    `infos` has everything of the last step as arrays. Rows are rows of one environment, so
    attributes are shared.
    """

    def __init__(self, envs: CanViTVectorEnv) -> None:
        if not isinstance(envs, CanViTVectorEnv):
            raise ValueError(
                f"CanViTVecEnv was given {envs}; give a CanViTVectorEnv without wrappers, as "
                'gym.make_vec returns with vectorization_mode="vector_entry_point".'
            )
        if envs.autoreset_mode != AutoresetMode.SAME_STEP or envs.output != "numpy":
            raise ValueError(
                f"The vector environment has autoreset_mode {envs.autoreset_mode.name!r} and "
                f"output {envs.output!r}; Stable-Baselines3 needs 'SAME_STEP' and 'numpy'."
            )
        self.envs = envs
        self.infos: dict[str, Any] = {}
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._started = time.time()
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> dict[str, np.ndarray]:
        options = {
            key: [row.get(key) for row in self._options]
            for key in dict.fromkeys(key for row in self._options for key in row)
        }
        observation, self.infos = self.envs.reset(seed=self._seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._returns[:], self._lengths[:] = 0, 0
        self._started = time.time()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, self.infos = self.envs.step(self._actions)
        done = terminated | truncated
        self._returns += reward
        self._lengths += 1
        success = self.envs.rollout.task.success
        rows: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in done]
        for i in np.flatnonzero(done).tolist():
            final = row(self.infos["final_info"], i)
            rows[i].update(
                terminal_observation=self.infos["final_obs"][i],
                episode={
                    "r": float(self._returns[i]),
                    "l": int(self._lengths[i]),
                    "t": round(time.time() - self._started, 6),
                    **final["scanpath"],
                },
                final_info=final,
            )
            if success is not None:
                rows[i]["is_success"] = bool(final[success])
        self._returns[done], self._lengths[done] = 0, 0
        return observation, reward.astype(np.float32), done, rows

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames = self.envs.render()
        return [None] * self.num_envs if frames is None else frames

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"set_attr was given rows {indices!r}, but all {self.num_envs} rows are one "
                "environment; leave the indices out."
            )
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """One call for all rows; what it returns is split where it has one entry a row."""
        result = getattr(self.envs, method_name)(*args, **kwargs)
        split = isinstance(result, list | tuple) and len(result) == self.num_envs
        return [result[i] if split else result for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each row does what this wrapper does: true of Monitor, whose infos are here."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
