"""Pictures of what policies did."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from canvit_agents.judging.evaluate import play_batch
from canvit_agents.judging.evidence import file_stem, hash_of
from canvit_agents.policies.base import Policy
from canvit_gym import Scenes
from canvit_gym.envs.rendering import render_episode
from canvit_gym.files import require_writable, write_bytes


def draw_filmstrips(
    policies: Mapping[str, Policy],
    *,
    scenes: Scenes,
    indices: list[int],
    directory: Path,
    seed: int = 0,
) -> list[Path]:
    """Write a PNG for each scene and policy, `<scene>-<policy>.png`: t0 at the top, tT below.
    Policies whose directories share a last name have their whole names in it.

    The episodes are those that `evaluate` judges with the same seed.
    """
    require_writable(directory)
    names = _file_names(policies)
    paths = []
    for name, policy in policies.items():
        steps = play_batch(policy, scenes=scenes, indices=indices, name=name, seed=seed)
        for row, index in enumerate(indices):
            frames = [render_episode(step.select([row]), rollout=policy.rollout) for step in steps]
            paths.append(directory / f"{index:06d}-{names[name]}.png")
            buffer = io.BytesIO()
            Image.fromarray(np.concatenate(frames)).save(buffer, format="PNG")
            write_bytes(paths[-1], buffer.getvalue())
    return paths


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each policy: the last part of its name or, where others share that, all of
    it with a digest. Some file systems do not tell capitals from small letters."""
    last = {name: file_stem(Path(name).name) for name in names}
    count = Counter(part.casefold() for part in last.values())
    return {
        name: part
        if part and count[part.casefold()] == 1
        else f"{file_stem(name)}-{hash_of(name)[:6]}"
        for name, part in last.items()
    }
