"""Trained policies small enough to make in a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from canvit_gym.envs.vector_env import CanViTVectorEnv


@pytest.fixture
def save_untrained(tmp_path: Path) -> Callable[..., Path]:
    """Writes a policy directory as `agents.train` does, with a network that has learned nothing."""
    ppo = pytest.importorskip("stable_baselines3").PPO
    from canvit_gym.sb3 import CanViTVecEnv

    def save(env: CanViTVectorEnv, /, *, name: str = "policy", **card: Any) -> Path:
        with torch.random.fork_rng(devices=[]):
            model = ppo(
                "MultiInputPolicy",
                CanViTVecEnv(env),
                n_steps=2,
                batch_size=2 * env.num_envs,
                policy_kwargs={"net_arch": [8]},
                seed=0,
                device="cpu",
            )
        directory = tmp_path / name
        directory.mkdir()
        model.save(directory / "policy.zip")
        backbone = {"name": env.backbone.name, "sha256": env.backbone.sha256}
        known = {
            "env": "CanViT-Emoji-v0",
            "env_kwargs": {},
            "backbone": backbone,
            "algorithm": "ppo",
            "seed": 0,
            "timesteps": 0,
        }
        (directory / "policy.json").write_text(json.dumps({**known, **card}))
        return directory

    return save
