"""Gymnasium's and Stable-Baselines3's own checkers, over every id and kind of action."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

import canvit_gym  # noqa: F401

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("CanViT-"))
KINDS = ("box", "cell", "tile")
SETTINGS = [
    *((env_id, kind, "looks") for env_id in IDS for kind in KINDS),
    *(("CanViT-Emoji-v0", kind, "stops") for kind in KINDS),
]


@pytest.fixture(params=SETTINGS, ids="-".join)
def env(request: pytest.FixtureRequest, env_kwargs: dict[str, dict[str, Any]]) -> gym.Env[Any, Any]:
    env_id, kind, ending = request.param
    kwargs = {"stop_action": True, "glimpse_cost": 0.1} if ending == "stops" else {}
    return gym.make(env_id, action=kind, render_mode="rgb_array", **kwargs, **env_kwargs[env_id])


def test_gymnasium_is_content(env: gym.Env[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_stable_baselines3_is_content(env: gym.Env[Any, Any]) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It takes any observation of three axes for a picture and gives advice for CnnPolicy.
        warnings.filterwarnings("ignore", message=".*(image|unconventional shape)")
        checker.check_env(env.unwrapped)


def test_a_seed_decides_everything(env: gym.Env[Any, Any]) -> None:
    def play() -> list[Any]:
        env.action_space.seed(5)
        seen: list[Any] = [env.reset(seed=11)]
        for _ in range(4):
            seen.append(env.step(env.action_space.sample()))
            if seen[-1][2]:
                seen.append(env.reset())
        return [*seen, env.reset()]  # the next scene, too, follows from the seed

    first, second = play(), play()
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            assert data_equivalence(x, y, exact=True)
    assert env.reset(seed=11)[1]["scene"] == first[0][1]["scene"]
    assert {int(env.reset(seed=s)[1]["scene"]) for s in range(20)} != {int(first[0][1]["scene"])}


def test_it_renders(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=0)
    before = env.render()
    env.step(env.action_space.sample())
    after = env.render()
    assert isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    assert before.dtype == np.uint8 and before.shape == after.shape
    assert (before != after).any()
