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

from agents.memory import Memory
from agents.networks import NEVER, CellPolicy
from canvit_gym.envs.actions import ListedActions
from canvit_gym.geometry import Viewpoint
from canvit_gym.sb3 import CanViTVecEnv
from canvit_gym.scenes.base import Scene

_MEMORY_STEPS = 128

# Shares of the target's box. On 512 train scenes of CanViT-Emoji-v0, glimpses at scale 0.25 that
# showed 20 to 40 % of it gained a tenth of what those gained that showed all of it, and those that
# showed 60 to 80 % nine tenths.
_NOTHING, _ENOUGH = 0.3, 0.7


def coverage_targets(viewpoints: Viewpoint, scenes: Sequence[Scene], *, worth: Tensor) -> Tensor:
    """The distribution to imitate over A listed viewpoints: float32 [B, A], rows sum to 1.

    A viewpoint counts as much as it is worth (float32 [B, A]) where its crop shows most of the
    target box, and nothing where it shows little; so a policy that imitates this puts most on the
    viewpoint with the best product of the two: how probably it shows the target, and what that is
    worth. Raises ValueError for scenes that do not say where their target is.
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
    edges = torch.minimum(high, centers + scales) - torch.maximum(low, centers - scales)
    share = (edges.clamp(min=0) / (high - low)).prod(dim=-1)
    mass = worth * ((share - _NOTHING) / (_ENOUGH - _NOTHING)).clamp(0, 1)
    # Between coarse cells no crop may show enough of a large target: then all are as good.
    mass = torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, worth)
    return mass / mass.sum(dim=1, keepdim=True)


def imitate(
    model: PPO,
    env: CanViTVecEnv,
    *,
    glimpses: int,
    scale_values: Sequence[float],
    last_scale_values: Sequence[float],
    learning_rate: float,
    batch_size: int,
    updates_per_step: int,
    seed: int,
) -> None:
    """Train the policy of `model` in place for this many glimpses over all environments.

    What showing the target is worth at each of the action space's scales, in its order:
    `last_scale_values` with the last glimpse (how often it names what it shows), `scale_values`
    earlier, when a glimpse that finds the target may be followed by a closer one.
    """
    actions = env.envs.actions
    if not isinstance(actions, ListedActions):
        raise ValueError("Imitation needs action='cell', whose actions can be listed.")
    of_scale = [actions.scales.index(round(s, 4)) for s in actions.viewpoints.scales.tolist()]
    earlier, last = (torch.tensor(v)[of_scale] for v in (scale_values, last_scale_values))
    policy = model.policy
    assert isinstance(policy, CellPolicy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    memory = Memory(steps=_MEMORY_STEPS)
    observation: Any = env.reset()
    smooth = 0.0
    with tqdm(total=glimpses, unit="glimpse", desc="imitation") as progress:
        for step in range(glimpses // env.num_envs):
            episode = env.envs.episode
            is_last = (episode.looks + 1 >= env.envs.rollout.budget).cpu()
            worth = torch.where(is_last[:, None], last, earlier)
            memory.add(
                wanted=coverage_targets(actions.viewpoints, episode.scenes, worth=worth),
                # Once the target is named there is nothing left to look for.
                weight=1 - episode.potentials["prob"].cpu(),
                **{key: torch.from_numpy(value) for key, value in observation.items()},
            )
            decay = 1 - step * env.num_envs / glimpses
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * decay
            policy.set_training_mode(True)
            for _ in range(updates_per_step):
                loss = _loss(policy, memory.draw(batch_size, rng=rng))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            value = float(loss.detach())
            smooth = 0.98 * smooth + 0.02 * value if step else value
            choice, _ = model.predict(observation, deterministic=bool(rng.random() < 0.5))
            observation, *_ = env.step(choice)
            progress.update(env.num_envs)
            progress.set_postfix(loss=f"{smooth:.3f}")


def _loss(policy: CellPolicy, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy with what is wanted, by what is left to gain in each state."""
    batch = {key: value.to(policy.device) for key, value in batch.items()}
    wanted, weight = batch.pop("wanted"), batch.pop("weight")
    logits, _ = policy.map_and_value(batch)
    logits = logits[:, : wanted.shape[1]]  # of places: nobody shows when to stop
    offered = logits > NEVER  # what was taken already can not be wanted
    wanted = wanted * offered
    wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1e-6)
    loss = -(wanted * logits.log_softmax(dim=1).masked_fill(~offered, 0)).sum(dim=1)
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)
