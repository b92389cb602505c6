"""The native vector env is N single envs, in every autoreset mode and at mixed phases."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from canvit_gym.envs.single_env import CanViTEnv
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.scenes.emoji import EmojiScenes

MakeVector = Callable[..., CanViTVectorEnv]
NUM_ENVS = 3
TOLERANCE = 5e-4  # a batched product rounds otherwise than one row's does


@pytest.fixture
def make_single(make_vector: MakeVector) -> Callable[..., CanViTEnv]:
    """Single environments on the shared model."""

    def make(**kwargs: Any) -> CanViTEnv:
        template = make_vector(1, budget=kwargs.pop("budget", 4))
        return CanViTEnv(
            scenes=template.scenes,
            rollout=template.rollout,
            backbone=template.backbone,
            **kwargs,
        )

    return make


def assert_close(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), path
        for key in a:
            assert_close(a[key], b[key], f"{path}/{key}")
    else:
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, path
        np.testing.assert_allclose(
            a.astype(np.float64), b.astype(np.float64), rtol=0, atol=TOLERANCE, err_msg=path
        )


def assert_close_infos(a: dict[str, Any], b: dict[str, Any], path: str = "infos") -> None:
    """Equal keys, equal masks, and equal values in the rows that a mask names."""
    assert a.keys() == b.keys(), path
    for key in (key for key in a if not key.startswith("_")):
        mask = np.asarray(a[f"_{key}"], dtype=bool)
        assert (mask == np.asarray(b[f"_{key}"], dtype=bool)).all(), f"{path}/{key}"
        if isinstance(a[key], dict):
            assert_close_infos(a[key], b[key], f"{path}/{key}")
        else:
            for i in np.flatnonzero(mask):
                assert_close(a[key][i], b[key][i], f"{path}/{key}/{i}")


@pytest.mark.parametrize("stops", [False, True], ids=["looks", "stops"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_it_behaves_as_gymnasiums_vector_env_of_single_envs(
    make_vector: MakeVector, make_single: Callable[..., CanViTEnv], mode: AutoresetMode, stops: bool
) -> None:
    """Observations, rewards, endings and infos, final ones included, with rows out of step."""
    kwargs = {"stop_action": stops, "glimpse_cost": 0.1 * stops}
    native = make_vector(NUM_ENVS, budget=2, autoreset_mode=mode, **kwargs)
    singles = SyncVectorEnv(
        [lambda: make_single(budget=2, **kwargs)] * NUM_ENVS, autoreset_mode=mode
    )
    for ours, theirs in zip(native.reset(seed=5), singles.reset(seed=5), strict=True):
        assert_close(ours, theirs) if "canvas" in ours else assert_close_infos(ours, theirs)

    rng = np.random.default_rng(0)
    done = np.zeros(NUM_ENVS, dtype=bool)
    phases = set()
    for t in range(9):
        stagger = np.array([True, False, False]) if t == 1 else np.zeros(NUM_ENVS, dtype=bool)
        if mode == AutoresetMode.DISABLED:
            stagger |= done
        if stagger.any():
            observation, infos = native.reset(options={"reset_mask": stagger.copy()})
            expected, expected_infos = singles.reset(options={"reset_mask": stagger.copy()})
            assert_close(observation, expected)
            assert_close_infos(infos, expected_infos)
        actions = rng.uniform(-1, 1, (NUM_ENVS, 3 + stops)).astype(np.float32)
        ours, theirs = native.step(actions), singles.step(actions)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            assert_close(a, b)
        final, expected_final = ours[4].pop("final_obs", None), theirs[4].pop("final_obs", None)
        if final is not None:
            assert expected_final is not None
            for i in np.flatnonzero(ours[4]["_final_obs"]):
                assert_close(final[i], expected_final[i], f"final_obs/{i}")
        for infos in (ours[4], theirs[4]):  # final_obs was popped; its mask stays to be compared
            if "_final_obs" in infos:
                infos["final_obs"] = infos["_final_obs"]
        assert_close_infos(ours[4], theirs[4])
        done = ours[2]
        phases.add(tuple(done.tolist()))
    assert len(phases) > 2  # rows did end at different steps


def test_rows_draw_what_single_envs_with_their_seeds_draw(
    make_vector: MakeVector, make_single: Callable[..., CanViTEnv]
) -> None:
    native, single = make_vector(4), make_single()
    scenes = native.reset(seed=20)[1]["scene"]
    assert scenes.tolist() == [int(single.reset(seed=20 + i)[1]["scene"]) for i in range(4)]
    listed = native.reset(seed=[23, 22, None, 20])[1]["scene"]
    assert listed[[0, 1, 3]].tolist() == scenes[[3, 2, 0]].tolist()
    assert native.reset()[1]["scene"].tolist() != listed.tolist()  # the orders go on


def test_chosen_scenes_are_played(make_vector: MakeVector) -> None:
    envs = make_vector(3)
    _, infos = envs.reset(options={"scene": [7, 9, 7]})
    assert infos["scene"].tolist() == [7, 9, 7]
    assert [scene.name for scene in envs.episode.scenes] == [f"emoji/train/{i}" for i in (7, 9, 7)]
    mask = np.array([False, True, False])
    _, infos = envs.reset(options={"scene": [4], "reset_mask": mask})
    assert infos["_scene"].tolist() == mask.tolist() and infos["scene"][1] == 4
    expected = [EmojiScenes(split="train")[i].label for i in (7, 4, 7)]
    assert envs.episode.targets.tolist() == expected


def test_same_step_resets_only_the_rows_that_ended(
    make_vector: MakeVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = make_vector(4, budget=2)
    envs.reset(seed=0)
    actions = np.zeros((4, 3), dtype=np.float32)
    envs.step(actions)
    envs.reset(options={"reset_mask": np.array([True, False, True, True])})
    sizes: list[int] = []
    canvit = envs.rollout.task.model.canvit
    forward = canvit.forward
    monkeypatch.setattr(
        canvit, "forward", lambda **kw: (sizes.append(len(kw["glimpse"])), forward(**kw))[1]
    )
    _, _, terminated, _, _ = envs.step(actions)
    assert terminated.tolist() == [False, True, False, False]
    assert sizes == [4, 1]  # one glimpse for all, and the new scene's first


def test_torch_output_is_the_same_numbers(make_vector: MakeVector) -> None:
    numpy_envs, torch_envs = make_vector(2), make_vector(2, output="torch")
    a, _ = numpy_envs.reset(seed=1)
    b, _ = torch_envs.reset(seed=1)
    action = np.full((2, 3), 0.5, dtype=np.float32)
    for _ in range(4):
        a, reward, *_ = numpy_envs.step(action)
        b, torch_reward, *_ = torch_envs.step(torch.from_numpy(action))
        assert all(isinstance(value, torch.Tensor) for value in b.values())
        assert_close(a, {key: value.numpy() for key, value in b.items()})
        np.testing.assert_allclose(reward, torch_reward.numpy(), rtol=0, atol=1e-6)


def test_episodes_end_with_terminated_at_the_budget(make_single: Callable[..., CanViTEnv]) -> None:
    env = make_single(budget=3, action="tile")
    env.reset(seed=0)
    endings = [env.step(action)[2:4] for action in (1, 9, 0)]
    assert endings == [(False, False), (False, False), (True, False)]


def test_stepping_out_of_turn_is_refused(make_vector: MakeVector) -> None:
    envs = make_vector(2, budget=1, autoreset_mode="DISABLED", action="tile")
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        envs.step(np.array([0, 0]))
    with pytest.raises(gym.error.ResetNeeded, match="first reset must reset every row"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    envs.step(np.array([0, 0]))
    with pytest.raises(gym.error.ResetNeeded, match=r"Episodes \[0, 1\] have ended"):
        envs.step(np.array([0, 0]))
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"Episodes \[1\] have ended"):
        envs.step(np.array([0, 0]))


def rewards_of(envs: CanViTVectorEnv, actions: Sequence[np.ndarray]) -> tuple[np.ndarray, Any]:
    _, start = envs.reset(seed=2)
    steps = [envs.step(action) for action in actions]
    return np.stack([step[1] for step in steps]), [start, *(step[4] for step in steps)]


@pytest.mark.parametrize("reward", ["log_prob", "prob", "margin", "correct", "neg_entropy"])
def test_rewards_are_differences_that_telescope(make_vector: MakeVector, reward: str) -> None:
    envs = make_vector(4, reward=reward, autoreset_mode="DISABLED")
    rng = np.random.default_rng(1)
    actions = [rng.uniform(-1, 1, (4, 3)).astype(np.float32) for _ in range(4)]
    rewards, infos = rewards_of(envs, actions)
    first, last = infos[0]["potential_after"], infos[-1]["potential_after"]
    np.testing.assert_allclose(rewards.sum(axis=0), last[reward] - first[reward], atol=1e-5)
    for t in range(4):
        for name, before in infos[t + 1]["potential_before"].items():
            if not name.startswith("_"):
                np.testing.assert_array_equal(before, infos[t]["potential_after"][name])
        # Any other reward can be computed afterwards.
        gained = infos[t + 1]["potential_after"][reward] - infos[t + 1]["potential_before"][reward]
        np.testing.assert_allclose(rewards[t], gained, atol=1e-6)
    assert reward == "correct" or np.abs(rewards).max() > 1e-3


@pytest.mark.parametrize("action", ["box", "cell", "tile"])
def test_rewards_less_the_price_of_glimpses_telescope(make_vector: MakeVector, action: str) -> None:
    """Sum of rewards = last potential - first potential - cost x chosen glimpses."""
    cost = 0.3
    envs = make_vector(
        6, action=action, stop_action=True, glimpse_cost=cost, autoreset_mode="DISABLED"
    )
    envs.action_space.seed(3)
    _, infos = envs.reset(seed=2)
    first = infos["potential_after"]["log_prob"]
    returns, done = np.zeros(6), np.zeros(6, dtype=bool)
    last, chosen = first.copy(), np.zeros(6, dtype=int)
    stop = {"box": np.ones(4, np.float32), "cell": 192, "tile": 21}[action]
    stops_at = np.array([0, 1, 2, 3, 9, 9])  # the last two use their budget
    for t in range(4):
        actions = envs.action_space.sample()
        for i in range(6):
            if done[i]:
                continue
            if stops_at[i] == t:
                actions[i] = stop
            elif action == "box":
                actions[i, 3] = -0.5
            else:
                actions[i] = min(actions[i], stop - 1)
        if done.any():  # those rows start anew and no longer matter
            envs.reset(options={"reset_mask": envs.has_ended})
        _, rewards, terminated, truncated, infos = envs.step(actions)
        returns[~done] += rewards[~done]
        stopped = ~done & (stops_at == t)
        assert (rewards[stopped] == 0).all() and terminated[stopped].all() and not truncated.any()
        assert not infos["viewpoint"][stopped].any()
        last[~done] = infos["potential_after"]["log_prob"][~done]
        chosen[~done & (stops_at != t)] += 1
        done |= terminated
    assert done.all() and chosen.tolist() == [0, 1, 2, 3, 4, 4]
    np.testing.assert_allclose(returns, last - first - cost * chosen, atol=1e-5)


def test_stopping_changes_nothing_that_is_known(make_vector: MakeVector) -> None:
    envs = make_vector(3, action="tile", stop_action=True, autoreset_mode="DISABLED")
    envs.reset(seed=0)
    observation, *_ = envs.step(np.array([1, 2, 3]))
    before = envs.episode
    after, _, terminated, _, infos = envs.step(np.array([21, 21, 4]))
    assert terminated.tolist() == [True, True, False]
    for name, value in after.items():
        np.testing.assert_array_equal(value[:2], observation[name][:2], err_msg=name)
        assert name in ("progress", "viewpoints") or (value[2] != observation[name][2]).any()
    assert torch.equal(envs.episode.belief[:2], before.belief[:2])
    for name, potential in infos["potential_after"].items():
        np.testing.assert_array_equal(potential[:2], infos["potential_before"][name][:2])
    with pytest.raises(gym.error.ResetNeeded, match=r"Episodes \[0, 1\] have ended"):
        envs.step(np.array([0, 0, 0]))


def test_infos_of_ended_episodes_have_the_measures_of_their_scanpaths(
    make_vector: MakeVector,
) -> None:
    envs = make_vector(3, action="tile", budget=3, stop_action=True, autoreset_mode="NEXT_STEP")
    _, infos = envs.reset(seed=0)
    assert "scanpath" not in infos
    *_, infos = envs.step(np.array([1, 21, 5]))
    assert infos["_scanpath"].tolist() == [False, True, False]
    assert infos["scanpath"]["glimpses"][1] == 1 and infos["scanpath"]["coverage"][1] == 0
    envs.step(np.array([2, 0, 6]))  # row 1 starts anew
    *_, infos = envs.step(np.array([21, 0, 5]))
    assert infos["_scanpath"].tolist() == [True, False, True]
    found = {k: v[[0, 2]] for k, v in infos["scanpath"].items() if not k.startswith("_")}
    assert found["glimpses"].tolist() == [3, 4]
    # Two quarters of the scene; two sixteenths beside each other, and the first of them again.
    np.testing.assert_allclose(found["coverage"], [1 / 2, 1 / 8])
    np.testing.assert_allclose(found["revisits"], [0, 1 / 3])
    np.testing.assert_allclose(found["center_distance"][0], np.sqrt(0.5))
    np.testing.assert_allclose(found["entropy"][0], np.log(2))
    np.testing.assert_allclose(found["scales"], [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]])


@pytest.mark.parametrize("initial_glimpse", ["full_scene", None])
def test_environments_with_stopped_rows_can_be_pickled(
    make_vector: MakeVector, initial_glimpse: str | None
) -> None:
    envs = make_vector(
        2, action="tile", stop_action=True, initial_glimpse=initial_glimpse,
        autoreset_mode="DISABLED", draw_ahead=0,
    )  # fmt: skip
    envs.reset(seed=0)
    *_, infos = envs.step(np.array([21, 3]))
    assert infos["scanpath"]["glimpses"][0] == (initial_glimpse is not None)
    again = pickle.loads(pickle.dumps(envs))
    mask = np.array([True, False])
    for one in (envs, again):
        one.reset(options={"reset_mask": mask})
    for ours, theirs in zip(envs.step([4, 5]), again.step([4, 5]), strict=True):
        assert_close(ours, theirs)


def test_infos_say_what_was_seen_and_believed(make_vector: MakeVector) -> None:
    envs = make_vector(3, action="cell", autoreset_mode="DISABLED")
    envs.reset(seed=4)
    actions = np.array([0, 70, 127])
    _, _, _, _, infos = envs.step(actions)
    meant = envs.actions.viewpoint(actions)
    np.testing.assert_allclose(infos["viewpoint"][:, :2], meant.centers)
    np.testing.assert_allclose(infos["viewpoint"][:, 2], meant.scales)
    labels = [envs.scenes[int(i)].label for i in infos["scene"]]
    assert infos["label"].tolist() == labels
    belief = envs.episode.belief.numpy()
    assert infos["prediction"].tolist() == belief.argmax(axis=1).tolist()
    assert infos["correct"].tolist() == (belief.argmax(axis=1) == labels).tolist()
    expected = belief[np.arange(3), labels]
    np.testing.assert_allclose(infos["potential_after"]["log_prob"], expected)
