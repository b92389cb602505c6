"""Gymnasium's recording wrappers on the single and on the vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics

import canvit_gym  # noqa: F401
from canvit_gym.envs import vector_env
from canvit_gym.envs.vector_env import COUNTS_SAME_STEP, CanViTVectorEnv


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


def test_statistics_of_the_second_episode(make_vector: Callable[..., CanViTVectorEnv]) -> None:
    """Older Gymnasiums lose a step of every episode but the first under SAME_STEP."""
    mode = "SAME_STEP" if COUNTS_SAME_STEP else "NEXT_STEP"
    envs = RecordVectorStatistics(make_vector(2, budget=3, action="tile", autoreset_mode=mode))
    envs.reset(seed=0)
    lengths = []
    for _ in range(11):
        *_, infos = envs.step(np.array([3, 8]))
        lengths += infos["episode"]["l"].tolist() if "episode" in infos else []
    assert lengths == [3] * 6  # three episodes in either mode: one that began anew takes 4 steps


def test_a_gymnasium_that_counts_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    make = {"num_envs": 2, "vectorization_mode": "vector_entry_point"}
    monkeypatch.setattr(vector_env, "COUNTS_SAME_STEP", False)
    with pytest.warns(UserWarning, match="RecordEpisodeStatistics.*NEXT_STEP"):
        gym.make_vec("CanViT-Emoji-v0", **make)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.make_vec("CanViT-Emoji-v0", autoreset_mode="NEXT_STEP", **make)


def test_frames_of_an_episode(env_kwargs: dict[str, dict[str, Any]]) -> None:
    env = gym.make(
        "CanViT-Emoji-v0", render_mode="rgb_array_list", budget=2, **env_kwargs["CanViT-Emoji-v0"]
    )
    env.reset(seed=0)
    env.step(env.action_space.sample())
    frames: Any = env.render()
    assert len(frames) == 2 and frames[0].shape == frames[1].shape


def test_a_window_is_gymnasiums(env_kwargs: dict[str, dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gym.make("CanViT-Emoji-v0", render_mode="human", **env_kwargs["CanViT-Emoji-v0"])
    assert "HumanRendering" in str(env) and env.unwrapped.render_mode == "rgb_array"


def test_infos_are_pythons_own_numbers(env_kwargs: dict[str, dict[str, Any]]) -> None:
    env = gym.make("CanViT-Emoji-v0", budget=1, **env_kwargs["CanViT-Emoji-v0"])
    for info in (env.reset(seed=0)[1], env.step(env.action_space.sample())[4]):
        numbers = [info["scene"], info["correct"], *info["potential_after"].values()]
        assert {type(number) for number in numbers} == {int, bool, float}
    with pytest.raises(gym.error.ResetNeeded, match=r"has ended; call reset\(\) for the next"):
        env.step(env.action_space.sample())

    envs = gym.make_vec(
        "CanViT-Emoji-v0", num_envs=2, vectorization_mode="sync", **env_kwargs["CanViT-Emoji-v0"]
    )
    _, infos = envs.reset(seed=0)
    assert infos["scene"].dtype.kind == "i" and infos["correct"].dtype == bool
    *_, infos = envs.step(envs.action_space.sample())
    assert infos["potential_after"]["log_prob"].dtype.kind == "f"


def test_gymnasiums_conversion_to_torch(env_kwargs: dict[str, dict[str, Any]]) -> None:
    pytest.importorskip("array_api_compat")
    pytest.importorskip("numpy", minversion="2.1")  # Gymnasium's conversions need it
    from gymnasium.wrappers import NumpyToTorch

    env = NumpyToTorch(gym.make("CanViT-Emoji-v0", **env_kwargs["CanViT-Emoji-v0"]))
    observation, _ = env.reset(seed=0)
    assert isinstance(observation["canvas"], torch.Tensor)
    env.step(torch.zeros(3))


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
    check_videos(tmp_path / "single")


@pytest.mark.slow
def test_videos_of_a_vector_are_written(
    tmp_path: Path, make_vector: Callable[..., CanViTVectorEnv]
) -> None:
    pytest.importorskip("moviepy")
    if not hasattr(gym.wrappers.vector, "RecordVideo"):
        pytest.skip("this Gymnasium has no RecordVideo for vector environments")
    envs = make_vector(
        2, budget=1, render_mode="rgb_array", action="tile", autoreset_mode="NEXT_STEP"
    )
    vector = gym.wrappers.vector.RecordVideo(
        envs, str(tmp_path), video_length=2, disable_logger=True
    )
    vector.reset(seed=0)
    for _ in range(2):
        vector.step(np.array([0, 1]))
    vector.close()
    check_videos(tmp_path)


def check_videos(folder: Path) -> None:
    videos = list(folder.glob("*.mp4"))
    assert videos and all(video.stat().st_size > 1000 for video in videos)
