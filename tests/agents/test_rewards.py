"""Rewards for the learner: what is paid is what the metric gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.rewards import ClipReward, DatasetIoUReward
from canvit_gym.sb3 import make_sb3_env


def areas(infos: dict[str, Any]) -> np.ndarray:
    return np.stack([infos["intersection"], infos["union"]]).astype(float)


def mean_iou(tallies: np.ndarray) -> float:
    intersection, union = tallies
    return float((intersection[union > 0] / union[union > 0]).mean())


def test_sums_over_episodes_are_the_first_order_gain_of_the_datasets_iou() -> None:
    env = make_sb3_env("CanViT-EmojiSeg-v0", num_envs=64, action="cell", budget=2)
    env.seed(0)
    paying = DatasetIoUReward(env)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(6, 64))
    paying.reset()
    for step in range(4):  # two episodes each, from which the tallies come
        paying.step(actions[step])
    begin = areas(env.infos)
    tallies = paying._tallies.copy()
    _, first, _, _ = paying.step(actions[4])
    assert np.array_equal(paying._tallies, tallies)  # no episode ended
    paying.step_async(actions[5])
    _, second, dones, _ = paying.step_wait()
    assert dones.all()
    end = areas(env.infos["final_info"])

    intersection, union = tallies
    known = union > 0
    share = intersection[known] / union[known]
    change = (end - begin)[:, :, known]
    scenes = 64 * 1.99
    expected = ((change[0] - share * change[1]) / (union[known] / scenes)).mean(axis=1)
    assert np.corrcoef(first + second, expected)[0, 1] > 0.99
    # And to first order the metric itself: a small part of such scenes moves it by as much.
    part = 1e-4
    moved = tallies + part * (end - begin).sum(axis=1)
    gained = (mean_iou(moved) - mean_iou(tallies)) / part
    assert gained == pytest.approx(expected.sum() / scenes, rel=0.01)


def test_rewards_are_clipped_for_the_learner_only() -> None:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=8, action="cell", budget=1)
    env.seed(0)
    clipped = ClipReward(env, limit=0.01)
    clipped.reset()
    _, rewards, dones, infos = clipped.step(np.arange(8) * 20)
    assert dones.all() and np.abs(rewards).max() == pytest.approx(0.01)
    assert max(abs(info["episode"]["r"]) for info in infos) > 0.02
