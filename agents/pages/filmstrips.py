"""Pictures of what policies did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from canvit_agents.judging.evaluate import play_batch
from canvit_agents.policies.base import Policy
from canvit_gym.envs.rendering import render_episode
from canvit_gym.scenes.base import Scenes


def draw_filmstrips(
    policies: Mapping[str, Policy],
    *,
    scenes: Scenes,
    indices: list[int],
    directory: Path,
    seed: int = 0,
) -> list[Path]:
    """Write a PNG for each scene and policy, `<scene>-<policy>.png`: t0 at the top, tT below.

    The episodes are those that `evaluate` judges with the same seed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, policy in policies.items():
        steps = play_batch(policy, scenes=scenes, indices=indices, name=name, seed=seed)
        for row, index in enumerate(indices):
            frames = [render_episode(step.select([row]), rollout=policy.rollout) for step in steps]
            paths.append(directory / f"{index:06d}-{Path(name).name}.png")
            Image.fromarray(np.concatenate(frames)).save(paths[-1])
    return paths
