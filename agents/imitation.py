"""A warm start for cell policies: imitate whoever knows where the target is.

PPO alone learns slowly where things are, because a hit says little about the places not chosen.
Generated scenes know where their target is, so before PPO every cell action is told how well it
would have shown it: the policy learns a map of where the target may be from what it has seen so
far. States come from the policy's own episodes (DAgger: Ross et al., 2011), so it also learns where
to look after a miss. What the target is, it is never told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor
from tqdm import tqdm

from canvit_gym.envs.actions import ListedActions
from canvit_gym.geometry import Viewpoint
from canvit_gym.sb3 import CanViTVecEnv
from canvit_gym.scenes.base import Scene

_MEMORY_STEPS = 64


def coverage_targets(
    viewpoints: Viewpoint, scenes: Sequence[Scene], *, scale_values: dict[float, float]
) -> Tensor:
    """The distribution to imitate over A listed viewpoints: float32 [B, A], rows sum to 1.

    A viewpoint counts as much as its scale is worth where its crop holds the whole target box, and
    nothing elsewhere; so a policy that imitates this puts most on the viewpoint with the best
    product of the two: how probably it shows the target, and how well. Raises ValueError for
    scenes that do not say where their target is.
    """
    boxes = []
    for scene in scenes:
        if scene.target is None:
            raise ValueError(
                f"Scene {scene.name} does not say where its target is; set imitation.glimpses to 0 "
                "in the hyperparameters of this environment."
            )
        size = scene.picture.shape[0]
        box = scene.target
        boxes.append([2 * edge / size - 1 for edge in (box.top, box.left, box.bottom, box.right)])
    low, high = torch.tensor(boxes)[:, None].split(2, dim=-1)  # [B, 1, 2] each
    centers, scales = viewpoints.centers.cpu(), viewpoints.scales.cpu()[:, None]
    tolerance = 1e-4
    inside = (low >= centers - scales - tolerance) & (high <= centers + scales + tolerance)
    worth = torch.tensor([scale_values[round(s, 4)] for s in scales[:, 0].tolist()])
    mass = inside.all(dim=-1) * worth
    # Between coarse cells no crop may hold all of a large target: then every place is as good.
    mass = torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, worth)
    return mass / mass.sum(dim=1, keepdim=True)


def imitate(
    model: PPO,
    env: CanViTVecEnv,
    *,
    glimpses: int,
    scale_values: Sequence[float],
    learning_rate: float,
    batch_size: int,
    updates_per_step: int,
    seed: int,
) -> None:
    """Train the policy of `model` in place for this many glimpses over all environments.

    scale_values: what each of the action space's scales is worth, in its order: how often a glimpse
    at that scale names what it shows.
    """
    actions = env.envs.actions
    if not isinstance(actions, ListedActions):
        raise ValueError("Imitation needs action='cell', whose actions can be listed.")
    scales = list(dict.fromkeys(round(s, 4) for s in actions.viewpoints.scales.tolist()))
    worth = dict(zip(scales, scale_values, strict=True))
    policy = model.policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    states: list[dict[str, np.ndarray]] = []
    targets: list[Tensor] = []
    observation: Any = env.reset()
    smooth = 0.0
    with tqdm(total=glimpses, unit="glimpse", desc="imitation") as progress:
        for step in range(glimpses // env.num_envs):
            states.append(observation)
            targets.append(
                coverage_targets(actions.viewpoints, env.envs.episode.scenes, scale_values=worth)
            )
            del states[:-_MEMORY_STEPS], targets[:-_MEMORY_STEPS]
            decay = 1 - step * env.num_envs / glimpses
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * decay
            policy.set_training_mode(True)
            for _ in range(updates_per_step):
                loss = _loss(model, states, targets, batch_size=batch_size, rng=rng)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            value = float(loss.detach())
            smooth = 0.98 * smooth + 0.02 * value if step else value
            choice, _ = model.predict(observation, deterministic=bool(rng.random() < 0.5))
            observation, *_ = env.step(choice)
            progress.update(env.num_envs)
            progress.set_postfix(loss=f"{smooth:.3f}")


def _loss(
    model: PPO,
    states: list[dict[str, np.ndarray]],
    targets: list[Tensor],
    *,
    batch_size: int,
    rng: np.random.Generator,
) -> Tensor:
    """Cross-entropy of the policy on states drawn from memory."""
    num_envs = len(targets[0])
    steps = rng.integers(len(states), size=batch_size)
    rows = rng.integers(num_envs, size=batch_size)
    batch = {
        key: torch.from_numpy(
            np.stack([states[s][key][r] for s, r in zip(steps, rows, strict=True)])
        )
        for key in states[0]
    }
    wanted = torch.stack([targets[s][r] for s, r in zip(steps, rows, strict=True)])
    device = model.device
    distribution = model.policy.get_distribution({k: v.to(device) for k, v in batch.items()})
    logits = distribution.distribution.logits  # type: ignore[union-attr]  # log-probabilities
    return -(wanted.to(device) * logits).sum(dim=1).mean()
