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
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.folder import FolderScenes


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


def play_every_scene(envs: Any) -> None:
    for index in range(len(envs.scenes)):
        _, infos = envs.reset(options={"scene": [index]})
        assert infos["scene"].tolist() == [index]


def count_reads(monkeypatch: pytest.MonkeyPatch, source: type[Any]) -> list[int]:
    reads: list[int] = []
    read = source._read
    monkeypatch.setattr(
        source, "_read", lambda self, index: (reads.append(index), read(self, index))[1]
    )
    return reads


@pytest.mark.parametrize(
    ("env_id", "source"), [("CanViT-IN1k-v0", FolderScenes), ("CanViT-ADE20K-v0", ADE20KScenes)]
)
def test_pictures_are_decoded_once(
    env_kwargs: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    env_id: str,
    source: type[Any],
) -> None:
    reads = count_reads(monkeypatch, source)
    one_row = {"num_envs": 1, "vectorization_mode": "vector_entry_point", **env_kwargs[env_id]}
    envs: Any = gym.make_vec(env_id, **one_row)
    for _ in range(3):
        play_every_scene(envs)
    assert reads == list(range(len(envs.scenes)))


def test_the_cache_keeps_to_its_limit(
    env_kwargs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch, FolderScenes)
    one_row = {"num_envs": 1, "vectorization_mode": "vector_entry_point"}
    one_row |= env_kwargs["CanViT-IN1k-v0"]
    three = 3 * 96 * 96 * 3
    envs: Any = gym.make_vec("CanViT-IN1k-v0", cache_bytes=three, **one_row)
    play_every_scene(envs)
    assert len(envs.scenes) == 8 and envs.scenes._bytes == three
    for index in (7, 5, 6):  # the last three are there, and no other
        envs.reset(options={"scene": [index]})
    assert reads == list(range(8))
    envs.reset(options={"scene": [4]})
    assert reads[8:] == [4]
    for _ in range(2):
        gym.make_vec("CanViT-IN1k-v0", cache_bytes=0, **one_row).reset(options={"scene": [2]})
    assert reads[9:] == [2, 2]


@pytest.mark.parametrize("wrong", [-1, 1e9, True])
def test_a_cache_of_no_bytes_is_refused(
    env_kwargs: dict[str, dict[str, Any]], wrong: object
) -> None:
    with pytest.raises(ValueError, match=r"cache_bytes is .*; give how many bytes .*, or 0 to"):
        gym.make("CanViT-IN1k-v0", cache_bytes=wrong, **env_kwargs["CanViT-IN1k-v0"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'cache_bytes'"):
        gym.make("CanViT-Emoji-v0", cache_bytes=1, **env_kwargs["CanViT-Emoji-v0"])
