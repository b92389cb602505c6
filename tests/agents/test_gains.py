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
    """0.1 for fine glimpses in the lower left quarter, -0.1 for others, less a price; 0 to stop."""

    price = 0.0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        scale, row, col = np.unravel_index(np.minimum(actions, 127), (2, 8, 8))
        self.rewards = np.where((scale == 0) & (row >= 4) & (col < 4), 0.1, -0.1) - self.price
        self.rewards[actions == 128] = 0  # stopped
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, _, dones, infos = self.venv.step_wait()
        return observations, self.rewards.astype(np.float32), dones, infos


def make_model(**kwargs: Any) -> tuple[PaysInTheLowerLeft, PPO]:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=16, action="cell", cell_scales=SCALES, **kwargs)
    env.seed(0)
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
    return paying, model


def learn(model: PPO, env: PaysInTheLowerLeft, *, glimpses: int) -> None:
    learn_gains(
        model,
        env,  # type: ignore[arg-type]
        glimpses=glimpses,
        temperature=0.02,
        learning_rate=5e-3,
        batch_size=64,
        updates_per_step=10,
        seed=0,
    )


def probabilities(model: PPO, env: PaysInTheLowerLeft) -> torch.Tensor:
    """Of each action, in the first observations of all environments: [actions]."""
    with torch.no_grad():
        observation = {k: torch.from_numpy(v) for k, v in env.reset().items()}
        policy = model.policy
        assert isinstance(policy, CellPolicy)
        probs = policy.get_distribution(observation).distribution.probs  # type: ignore[union-attr]
    return probs.mean(dim=0)


def paying_share(probs: torch.Tensor) -> float:
    return float(probs[:128].reshape(2, 8, 8)[0, 4:, :4].sum())


def test_places_that_pay_become_probable() -> None:
    env, model = make_model()
    before = paying_share(probabilities(model, env))
    assert before == pytest.approx(1 / 8, abs=0.02)  # 16 of 128 actions
    learn(model, env, glimpses=16 * 60)
    assert paying_share(probabilities(model, env)) > 0.8


def test_stopping_becomes_probable_where_looking_costs_more_than_it_gains() -> None:
    shares = {}
    for price in (-0.4, 0.4):
        env, model = make_model(stop_action=True)
        env.price = price
        assert probabilities(model, env)[-1] == pytest.approx(1 / 21, abs=0.01)
        learn(model, env, glimpses=16 * 20)
        shares[price] = float(probabilities(model, env)[-1])
    assert shares[-0.4] < 0.01 and shares[0.4] > 0.9
