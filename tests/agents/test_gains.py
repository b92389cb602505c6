"""The warm start from rewards alone: it must come to prefer what pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.gains import learn_gains
from agents.networks import CellPolicy
from canvit_gym.sb3 import make_sb3_env

SCALES = (0.25, 0.5)


class PaysInTheLowerLeft(VecEnvWrapper):
    """A reward of 0.1 for fine glimpses in the lower left quarter, -0.1 for others."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        scale, row, col = np.unravel_index(actions, (2, 8, 8))
        self.rewards = np.where((scale == 0) & (row >= 4) & (col < 4), 0.1, -0.1)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, _, dones, infos = self.venv.step_wait()
        return observations, self.rewards.astype(np.float32), dones, infos


def test_places_that_pay_become_probable() -> None:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=16, action="cell", cell_scales=SCALES)
    paying = PaysInTheLowerLeft(env)
    model = PPO(
        CellPolicy,
        paying,
        n_steps=2,
        batch_size=32,
        policy_kwargs={"channels": 16, "cell_scales": SCALES},
        seed=0,
        device="cpu",
    )
    env.seed(0)

    def paying_share() -> float:
        with torch.no_grad():
            observation = {k: torch.from_numpy(v) for k, v in env.reset().items()}
            policy = model.policy
            assert isinstance(policy, CellPolicy)
            probs = policy.get_distribution(observation).distribution.probs  # type: ignore[union-attr]
        return float(probs.reshape(-1, 2, 8, 8)[:, 0, 4:, :4].sum(dim=(1, 2)).mean())

    assert paying_share() == pytest.approx(1 / 8, abs=0.02)  # 16 of 128 actions
    learn_gains(
        model,
        paying,  # type: ignore[arg-type]
        glimpses=16 * 60,
        temperature=0.02,
        learning_rate=5e-3,
        batch_size=64,
        updates_per_step=10,
        seed=0,
    )
    assert paying_share() > 0.8
