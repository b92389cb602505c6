"""A warm start for cell policies: learn what a glimpse at each place is worth.

The bandit reading of where to look: the horizon is short, so what a glimpse gains at once says most
of what there is to say, and every glimpse tried anywhere is a labelled example of it, whatever the
policy would have done. So before PPO the policy's map is regressed on the rewards of glimpses,
half of them at random places: reward(s, a) = value(s) + temperature * logit(s, a). Its softmax then
prefers what gains most. Needs nothing of a scene but the rewards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor
from tqdm import tqdm

from agents.memory import Memory
from agents.networks import NEVER, CellPolicy
from canvit_gym.sb3 import CanViTVecEnv

_MEMORY_STEPS = 128


def learn_gains(
    model: PPO,
    env: CanViTVecEnv,
    *,
    glimpses: int,
    temperature: float,
    learning_rate: float,
    batch_size: int,
    updates_per_step: int,
    seed: int,
) -> None:
    """Train the policy of `model`, a CellPolicy, in place for this many glimpses over all envs.

    temperature: how much more reward makes a glimpse e times as probable, in units of the reward.
    """
    policy = model.policy
    assert isinstance(policy, CellPolicy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    memory = Memory(steps=_MEMORY_STEPS)
    observation: Any = env.reset()
    smooth = 0.0
    with tqdm(total=glimpses, unit="glimpse", desc="gains") as progress:
        for step in range(glimpses // env.num_envs):
            chosen, _ = model.predict(observation, deterministic=False)
            anywhere = rng.integers(env.action_space.n, size=env.num_envs)  # type: ignore[attr-defined]
            actions = np.where(rng.random(env.num_envs) < 0.5, anywhere, chosen)
            before = observation
            observation, rewards, *_ = env.step(actions)
            memory.add(
                actions=torch.from_numpy(actions),
                rewards=torch.from_numpy(rewards),
                **{key: torch.from_numpy(value) for key, value in before.items()},
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - step * env.num_envs / glimpses)
            policy.set_training_mode(True)
            for _ in range(updates_per_step):
                batch = memory.draw(batch_size, rng=rng)
                loss = _loss(policy, batch, temperature=temperature)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            value = float(loss.detach())
            smooth = 0.98 * smooth + 0.02 * value if step else value
            progress.update(env.num_envs)
            progress.set_postfix(error=f"{smooth**0.5:.4f}")


def _loss(policy: CellPolicy, batch: dict[str, Tensor], *, temperature: float) -> Tensor:
    """Squared error of the rewards that are predicted where looks were taken, and of stopping."""
    batch = {key: value.to(policy.device) for key, value in batch.items()}
    actions, rewards = batch.pop("actions"), batch.pop("rewards")
    logits, values = policy.map_and_value(batch)
    logit = logits.gather(1, actions[:, None])[:, 0]
    offered = logit > NEVER  # that of a viewpoint taken already is fixed and can not learn
    errors = (values + temperature * logit - rewards)[offered]
    if policy.stop_action:  # its reward is known in every state: 0
        errors = torch.cat((errors, values + temperature * logits[:, -1]))
    return errors.square().mean()
