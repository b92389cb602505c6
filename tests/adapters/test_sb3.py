"""The Stable-Baselines3 adapter: what its algorithms read from observations and infos is true."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from canvit_gym.adapters.sb3 import CanViTVecEnv, make_sb3_env
from canvit_gym.envs.rendering import render_episode
from canvit_gym.envs.vector_env import CanViTVectorEnv

MakeVector = Callable[..., CanViTVectorEnv]


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=0, atol=5e-4, err_msg=key)


def test_what_is_said_of_ended_episodes_is_true(make_vector: MakeVector) -> None:
    """Compared with an environment that does not reset by itself, at mixed phases."""
    venv = CanViTVecEnv(make_vector(3, budget=2))
    plain = make_vector(3, budget=2, autoreset_mode="DISABLED")
    venv.seed(8)
    assert_close(venv.reset(), plain.reset(seed=8)[0])
    returns, lengths = np.zeros(3), np.zeros(3, dtype=int)
    rng = np.random.default_rng(0)
    ended = 0
    for t in range(7):
        if t == 1:  # puts row 1 out of step with the others
            mask = np.array([False, True, False])
            venv.envs.reset(options={"reset_mask": mask})
            plain.reset(options={"reset_mask": mask})
            venv._returns[1] = venv._lengths[1] = returns[1] = lengths[1] = 0
        actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        observation, reward, done, infos = venv.step(actions)
        expected, expected_reward, expected_done, _, expected_infos = plain.step(actions)
        assert reward.dtype == np.float32 and len(infos) == 3
        np.testing.assert_allclose(reward, expected_reward, atol=5e-4)
        np.testing.assert_array_equal(done, expected_done)
        returns, lengths = returns + expected_reward, lengths + 1
        for i in range(3):
            assert infos[i]["TimeLimit.truncated"] is False
            if not done[i]:
                assert "terminal_observation" not in infos[i] and "episode" not in infos[i]
                continue
            ended += 1
            last = {key: value[i] for key, value in expected.items()}
            assert_close(infos[i]["terminal_observation"], last)
            assert infos[i]["episode"]["r"] == pytest.approx(returns[i], abs=1e-3)
            assert infos[i]["episode"]["l"] == lengths[i]
            assert infos[i]["episode"]["t"] >= 0
            assert infos[i]["is_success"] == bool(expected_infos["correct"][i])
            assert infos[i]["final_info"]["scene"] == expected_infos["scene"][i]
            for name, values in expected_infos["scanpath"].items():
                if not name.startswith("_"):
                    np.testing.assert_allclose(infos[i]["episode"][name], values[i])
        if done.any():
            expected, _ = plain.reset(options={"reset_mask": done})
            returns[done], lengths[done] = 0, 0
        assert_close(observation, expected)
    assert ended >= 6


@pytest.mark.parametrize("action", ["box", "cell"])
def test_ppo_learns(env_kwargs: dict[str, dict[str, Any]], action: str) -> None:
    venv = make_sb3_env(
        "CanViT-Emoji-v0", num_envs=2, seed=0, action=action, **env_kwargs["CanViT-Emoji-v0"]
    )
    agent = PPO("MultiInputPolicy", venv, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    agent.learn(2 * 8 * 2)
    assert agent._n_updates == 2
    assert agent.ep_info_buffer is not None and len(agent.ep_info_buffer) == 8
    assert all(episode["l"] == 4 for episode in agent.ep_info_buffer)
    assert agent.ep_success_buffer is not None and len(agent.ep_success_buffer) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that episodes are not monitored
        returns, lengths = evaluate_policy(
            agent, venv, n_eval_episodes=3, return_episode_rewards=True
        )
    assert len(returns) == 3 and lengths == [4, 4, 4]


@pytest.mark.parametrize("action", ["box", "cell"])
def test_ppo_learns_where_episodes_can_be_stopped(
    env_kwargs: dict[str, dict[str, Any]], action: str
) -> None:
    venv = make_sb3_env(
        "CanViT-Emoji-v0",
        num_envs=2,
        seed=0,
        action=action,
        stop_action=True,
        glimpse_cost=0.5,
        **env_kwargs["CanViT-Emoji-v0"],
    )
    agent = PPO("MultiInputPolicy", venv, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    agent.learn(2 * 8 * 2)
    assert agent.ep_info_buffer
    for episode in agent.ep_info_buffer:  # of the last step, if it stops, there is no glimpse
        assert episode["glimpses"] in (1 + episode["l"], episode["l"])
    if action == "box":  # half of the random actions stop
        assert any(episode["l"] < 4 for episode in agent.ep_info_buffer)


def test_seeds_and_options_reach_the_scenes(env_kwargs: dict[str, dict[str, Any]]) -> None:
    kwargs = env_kwargs["CanViT-Emoji-v0"]
    venv = make_sb3_env("CanViT-Emoji-v0", num_envs=2, seed=5, **kwargs)
    venv.reset()
    single = gym.make("CanViT-Emoji-v0", **kwargs)
    drawn = venv.infos["scene"].tolist()
    assert drawn == [int(single.reset(seed=5 + i)[1]["scene"]) for i in range(2)]
    venv.reset()
    assert venv.infos["scene"].tolist() != drawn  # a seed counts for one reset
    venv.set_options([{"scene": 3}, {"scene": 1}])
    venv.reset()
    assert venv.infos["scene"].tolist() == [3, 1]
    venv.reset()
    assert venv.infos["scene"].tolist() != [3, 1]


def test_rows_share_one_environment(make_vector: MakeVector) -> None:
    envs = make_vector(2, render_mode="rgb_array")
    venv = CanViTVecEnv(envs)
    venv.seed(0)
    venv.reset()
    assert venv.observation_space == envs.single_observation_space
    assert venv.action_space == envs.single_action_space
    assert venv.get_attr("reward") == ["log_prob"] * 2
    assert venv.get_attr("reward", indices=1) == ["log_prob"]
    assert not venv.has_attr("colour")
    venv.set_attr("colour", "red")
    assert venv.get_attr("colour") == ["red"] * 2
    with pytest.raises(ValueError, match="all 2 rows are one environment"):
        venv.set_attr("colour", "blue", indices=[1])
    assert venv.env_is_wrapped(Monitor) == [True, True]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit, indices=0) == [False]
    images = [render_episode(envs.episode.select([i]), rollout=envs.rollout) for i in range(2)]
    for i, image in enumerate(venv.get_images()):
        np.testing.assert_array_equal(image, images[i])
    np.testing.assert_array_equal(venv.env_method("render", indices=1)[0], images[1])
    assert venv.render() is not None
    venv.close()


def test_only_what_stable_baselines3_can_use_is_accepted(
    make_vector: MakeVector, env_kwargs: dict[str, dict[str, Any]]
) -> None:
    for wrong in ({"autoreset_mode": "NEXT_STEP"}, {"output": "torch"}):
        with pytest.raises(ValueError, match="needs 'SAME_STEP' and 'numpy'"):
            CanViTVecEnv(make_vector(1, **wrong))
    single = gym.make("CanViT-Emoji-v0", **env_kwargs["CanViT-Emoji-v0"])
    with pytest.raises(ValueError, match="give a CanViTVectorEnv"):
        CanViTVecEnv(single)  # type: ignore[arg-type]


def test_without_stable_baselines3_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import canvit_gym.adapters.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "needs stable-baselines3, which is not installed; run `pip install '"
        in result.stderr.strip().splitlines()[-1]
    )
