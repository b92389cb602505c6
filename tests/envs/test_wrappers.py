"""Gymnasium's recording wrappers on the single and on the vector environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from gymnasium.wrappers.vector import RecordVideo as RecordVectorVideo

import canvit_gym  # noqa: F401
from canvit_gym.envs.vector_env import CanViTVectorEnv


def test_statistics_of_an_episode(env_kwargs: dict[str, dict[str, Any]]) -> None:
    env = RecordEpisodeStatistics(
        gym.make("CanViT-Emoji-v0", action="tile", **env_kwargs["CanViT-Emoji-v0"])
    )
    _, info = env.reset(seed=0)
    start = info["potential_after"]["log_prob"]
    for action in (1, 2, 3, 4):
        *_, info = env.step(action)
    assert info["episode"]["l"] == 4
    assert info["episode"]["r"] == pytest.approx(
        info["potential_after"]["log_prob"] - start, abs=1e-5
    )
    assert info["scanpath"]["glimpses"] == 5


def test_statistics_of_a_vector_of_episodes(make_vector: Callable[..., CanViTVectorEnv]) -> None:
    envs = RecordVectorStatistics(make_vector(2, budget=2, action="tile"))
    _, infos = envs.reset(seed=0)
    start = infos["potential_after"]["log_prob"].copy()
    for _ in range(2):
        *_, infos = envs.step(np.array([3, 8]))
    assert infos["episode"]["l"].tolist() == [2, 2]
    gained = infos["final_info"]["potential_after"]["log_prob"] - start
    np.testing.assert_allclose(infos["episode"]["r"], gained, atol=1e-5)


def test_statistics_of_stopped_episodes(
    env_kwargs: dict[str, dict[str, Any]], make_vector: Callable[..., CanViTVectorEnv]
) -> None:
    kwargs = {"action": "tile", "stop_action": True, "glimpse_cost": 0.25}
    env = RecordEpisodeStatistics(
        gym.make("CanViT-Emoji-v0", **kwargs, **env_kwargs["CanViT-Emoji-v0"])
    )
    _, info = env.reset(seed=0)
    start = info["potential_after"]["log_prob"]
    env.step(3)
    _, reward, terminated, _, info = env.step(21)
    assert terminated and reward == 0
    gained = info["potential_after"]["log_prob"] - start
    assert info["episode"]["l"] == 2
    assert info["episode"]["r"] == pytest.approx(gained - 0.25, abs=1e-5)
    assert info["scanpath"]["glimpses"] == 2

    for mode in ("SAME_STEP", "NEXT_STEP", "DISABLED"):
        envs = RecordVectorStatistics(make_vector(2, autoreset_mode=mode, **kwargs))
        envs.reset(seed=0)
        envs.step(np.array([3, 8]))
        *_, infos = envs.step(np.array([21, 4]))
        assert infos["_episode"].tolist() == [True, False] and infos["episode"]["l"][0] == 2
        final = infos["final_info"] if mode == "SAME_STEP" else infos
        assert final["_scanpath"].tolist() == [True, False]


@pytest.mark.slow
def test_videos_are_written(
    tmp_path: Path,
    env_kwargs: dict[str, dict[str, Any]],
    make_vector: Callable[..., CanViTVectorEnv],
) -> None:
    pytest.importorskip("moviepy")
    env = gym.make(
        "CanViT-Emoji-v0", render_mode="rgb_array", budget=1, **env_kwargs["CanViT-Emoji-v0"]
    )
    single = RecordVideo(env, str(tmp_path / "single"), disable_logger=True)
    single.reset(seed=0)
    single.step(np.zeros(3, dtype=np.float32))
    single.close()
    envs = make_vector(
        2, budget=1, render_mode="rgb_array", action="tile", autoreset_mode="NEXT_STEP"
    )
    vector = RecordVectorVideo(envs, str(tmp_path / "vector"), video_length=2, disable_logger=True)
    vector.reset(seed=0)
    for _ in range(2):
        vector.step(np.array([0, 1]))
    vector.close()
    for folder in ("single", "vector"):
        videos = list((tmp_path / folder).glob("*.mp4"))
        assert videos and all(video.stat().st_size > 1000 for video in videos), folder
