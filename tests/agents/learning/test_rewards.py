"""Rewards for the learner: what is paid is what the metric gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from canvit_agents.learning.rewards import ClipReward, DatasetIoUReward, IoUTally
from canvit_gym.adapters.sb3 import make_sb3_env


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
    begin, worth = areas(env.infos), paying.tally.worth
    _, first, _, _ = paying.step(actions[4])
    assert np.array_equal(paying.tally.worth, worth)  # no episode ended
    paying.step_async(actions[5])
    _, second, dones, _ = paying.step_wait()
    assert dones.all()
    end = areas(env.infos["final_info"])
    expected = np.einsum("arc,ac->r", end - begin, worth)
    assert np.corrcoef(first + second, expected)[0, 1] > 0.99


def test_the_tally_tells_what_a_scene_does_to_the_datasets_iou() -> None:
    rng = np.random.default_rng(0)
    union = rng.integers(1, 20, size=(50, 6))
    union[:, 5] = 0  # a class that no scene has
    seen = np.stack([rng.integers(0, union + 1), union]).astype(float)
    tally = IoUTally(6)
    tally.add(seen)
    change = np.zeros((2, 1, 6))
    change[:, 0, 1] = 1, 0  # a pixel of class 1 that was called 2 is called 1
    change[:, 0, 2] = 0, -1
    part, totals = 1e-5, seen.sum(axis=1)
    gained = mean_iou(totals + part * change[:, 0]) - mean_iou(totals)
    # Per scene: the same change in each of the 50 scenes would move the metric by so much.
    assert tally.gain(change)[0] == pytest.approx(50 * gained / part, rel=1e-3)


def test_rewards_are_clipped_for_the_learner_only() -> None:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=8, action="cell", budget=1)
    env.seed(0)
    clipped = ClipReward(env, limit=0.01)
    clipped.reset()
    _, rewards, dones, infos = clipped.step(np.arange(8) * 20)
    assert dones.all() and np.abs(rewards).max() == pytest.approx(0.01)
    assert max(abs(info["episode"]["r"]) for info in infos) > 0.02
