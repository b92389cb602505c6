"""What the registered ids build."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import canvit_gym  # noqa: F401  (registers the ids)
from canvit_gym.model.frozen import FrozenCanViT
from canvit_gym.model.heads import CanViTForImageClassification


@pytest.mark.parametrize("env_id", ["CanViT-Emoji-v0", "CanViT-EmojiSeg-v0"])
def test_environments_run_the_frozen_form(env_id: str) -> None:
    envs: Any = gym.make_vec(env_id, num_envs=2, vectorization_mode="vector_entry_point")
    assert isinstance(envs.rollout.task.model.canvit, FrozenCanViT)


def test_beliefs_are_those_of_the_plain_model() -> None:
    envs: Any = gym.make_vec(
        "CanViT-Emoji-v0", num_envs=8, vectorization_mode="vector_entry_point", action="tile"
    )
    envs.reset(seed=0)
    plain = CanViTForImageClassification.from_pretrained("mini")
    episode = envs.episode
    viewpoint = envs.actions.viewpoint(np.arange(8))
    with torch.inference_mode():
        glimpse = envs.rollout.sample(episode, viewpoint)
        logits, _ = plain(glimpse=glimpse, state=episode.state, viewpoint=viewpoint)
    envs.step(np.arange(8))
    # The glimpses end no episode, so the rows still show the same scenes.
    torch.testing.assert_close(envs.episode.belief, logits.log_softmax(dim=1), rtol=0, atol=1e-4)
