"""What is learned of places: where targets are, and what a look gains at each cell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from canvit_agents.learning.maps import GainMap, IoUWorth, TargetMap, shown_enough
from canvit_gym.adapters.sb3 import make_sb3_env
from canvit_gym.envs.actions import ListedActions, cell_actions
from canvit_gym.scenes.base import IGNORE

SCALES = (0.25, 0.5)
ACTIONS = cell_actions(grid_size=8, scales=SCALES)


def target_map() -> TargetMap:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TargetMap(
            actions=ACTIONS, channels=4, grid_size=8, scale_values=(1.0, 0.8), target_size=0.25
        )


def test_crops_that_show_most_of_a_box_show_enough_of_it() -> None:
    box = torch.tensor([[-0.1, -0.1, 0.1, 0.1]])
    crops = torch.tensor([
        [0.0, 0.0, 0.25],  # all of it
        [0.29, 0.0, 0.25],  # 30 % of its rows
        [0.25, 0.0, 0.25],  # half of its rows
        [0.25, 0.25, 0.25],  # a quarter
        [0.8, 0.8, 0.2],  # nothing
    ])  # fmt: skip
    torch.testing.assert_close(
        shown_enough(crops, box)[:, 0], torch.tensor([1.0, 0, 0.5, 0, 0]), rtol=0, atol=1e-5
    )


def test_a_certain_target_is_worth_what_its_scale_names() -> None:
    places = target_map()
    features = torch.zeros(1, 4, 8, 8)
    features[0, 0, 2, 1] = 1
    with torch.no_grad():  # a head that is sure of the place at row 5, column 2 of 16 x 16
        places.head.weight.zero_()
        places.head.weight[2, 0] = 50
        at_once, gains = places.values(features)
    assert int(gains[0].argmax()) == 5 * 16 + 2
    torch.testing.assert_close(gains.sum(), torch.tensor(1.0))
    fine, coarse = at_once.reshape(2, 8, 8)
    assert fine[2, 1] == pytest.approx(1, abs=1e-4)  # this crop shows the place, and few others do
    assert (fine > 0.5).sum() <= 6 and fine[5:].max() < 1e-4
    assert coarse[2, 1] == pytest.approx(0.8, abs=1e-4) == coarse.max()


def test_the_target_map_learns_where_the_target_is() -> None:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=4, action="cell", cell_scales=SCALES).envs
    env.reset(seed=0)
    before, places = env.episode, target_map()
    lesson = places.lesson(before, torch.zeros(4, 1, dtype=torch.int64), [before])
    for place, scene in zip(lesson["place"].tolist(), before.scenes, strict=True):
        row, col = divmod(place, 16)  # places of 8 px
        box = scene.target
        assert box is not None
        assert row == int((box.top + box.bottom) / 2 // 8)
        assert col == int((box.left + box.right) / 2 // 8)
    torch.testing.assert_close(lesson["weight"], 1 - before.potentials["prob"])
    features = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(places.head.parameters(), lr=0.1)
    first = float(places.loss(features, lesson).detach())
    for _ in range(50):
        optimizer.zero_grad()
        places.loss(features, lesson).backward()
        optimizer.step()
    assert float(places.loss(features, lesson).detach()) < 0.7 * first


def test_scenes_without_a_target_are_refused_by_name() -> None:
    env = make_sb3_env("CanViT-Emoji-v0", num_envs=1, action="cell", cell_scales=SCALES).envs
    env.reset(seed=0)
    blind = dataclasses.replace(env.episode.scenes[0], target=None, name="photo.jpeg")
    episode = dataclasses.replace(env.episode, scenes=(blind,))
    with pytest.raises(ValueError, match="photo.jpeg"):
        target_map().lesson(episode, torch.zeros(1, 1, dtype=torch.int64), [episode])


def test_the_gain_map_learns_what_a_look_did_for_each_cell_that_it_showed() -> None:
    env = make_sb3_env("CanViT-EmojiSeg-v0", num_envs=6, action="cell", cell_scales=SCALES).envs
    assert isinstance(env.actions, ListedActions)
    env.reset(seed=0)
    places = GainMap(task=env.rollout.task, actions=env.actions, channels=4, grid_size=8)
    before = env.episode
    chosen = torch.tensor([9, 20, 64, 80, 100, 127])
    after = env.rollout.look(before, env.actions.viewpoint(chosen))
    lesson = places.lesson(before, chosen[:, None], [after])

    assert not lesson["gained"].any()  # no episode has ended yet, so nobody knows the classes
    ended = after
    while not bool(env.rollout.finished(ended).all()):
        previous, ended = ended, env.rollout.look(ended, env.actions.viewpoint(chosen))
    places.lesson(previous, chosen[:, None], [ended])
    other = chosen.roll(1)
    tried = [after, env.rollout.look(before, env.actions.viewpoint(other))]
    lesson = places.lesson(before, torch.stack((chosen, other), dim=1), tried)
    change = np.stack([
        (after.outcome[name] - before.outcome[name]).numpy() for name in ("intersection", "union")
    ])  # fmt: skip
    # Expected under the belief; where that is sure, what the scenes did to the metric.
    sure = [dataclasses.replace(e, belief=1e4 * e.belief) for e in (before, after)]
    gained = places.lesson(sure[0], chosen[:, None], sure[1:])["gained"][:, 0].mean(dim=1)
    assert isinstance(places.worth, IoUWorth)
    np.testing.assert_allclose(gained, places.worth.tally.gain(change), rtol=0, atol=1e-4)
    assert np.corrcoef(lesson["gained"][:, 0].mean(dim=1), gained)[0, 1] > 0.5
    assert lesson["scale"][:, 0].tolist() == [0, 0, 1, 1, 1, 1]
    # A crop of scale 0.5 that is clipped to the corner at action 64 + 0 shows 4 x 4 cells.
    assert lesson["shown"][2, 0].reshape(8, 8).nonzero().amax(dim=0).tolist() == [3, 3]
    assert lesson["shown"][2, 0].sum() == 16
    # What was tried beside it follows; what was not, up to as many as ever are, shows nothing.
    assert (lesson["gained"][:, 1] != lesson["gained"][:, 0]).any()
    torch.testing.assert_close(lesson["shown"][1:, 1], lesson["shown"][:-1, 0])
    assert lesson["shown"].shape == (6, places.last_glimpses, 64)
    assert not lesson["shown"][:, 2:].any()


def test_plans_of_several_glimpses_are_the_quarters() -> None:
    env = make_sb3_env("CanViT-EmojiSeg-v0", num_envs=1, action="cell", cell_scales=SCALES).envs
    assert isinstance(env.actions, ListedActions)
    places = GainMap(task=env.rollout.task, actions=env.actions, channels=4, grid_size=8)
    planned = env.actions.viewpoints[places.planned]
    assert {tuple(c) for c in planned.centers.abs().tolist()} == {(0.5, 0.5)}
    assert (
        set(planned.scales.tolist()) == {0.5}
        and len(set(map(tuple, planned.centers.tolist()))) == 4
    )
    # Each quarter has what its cells have at that scale, and so have plans of all four.
    with torch.no_grad():
        at_once, gains = places.values(torch.randn(1, 4, 8, 8))
    assert gains.shape == (1, 64)
    assert int(places.planned.sum()) == 16  # four cells are clipped to each quarter
    torch.testing.assert_close(at_once[0, places.planned].sum() / 4, gains.sum())
    worth = places.planner.worth(gains.abs(), num_glimpses=4)
    torch.testing.assert_close(worth.max(), gains.abs().sum())
    without = cell_actions(grid_size=8, scales=(0.25,))
    with pytest.raises(ValueError, match="None of the scales"):
        GainMap(task=env.rollout.task, actions=without, channels=4, grid_size=8)


def test_ignored_pixels_gain_nothing() -> None:
    env = make_sb3_env("CanViT-EmojiSeg-v0", num_envs=2, action="cell", budget=1).envs
    assert isinstance(env.actions, ListedActions)
    env.reset(seed=0)
    targets = env.episode.targets.clone()
    targets[:, 3, 4] = IGNORE
    before = dataclasses.replace(env.episode, targets=targets)
    chosen = torch.tensor([99, 100])
    after = env.rollout.look(before, env.actions.viewpoint(chosen))
    places = GainMap(task=env.rollout.task, actions=env.actions, channels=4, grid_size=8)
    gained = places.lesson(before, chosen[:, None], [after])["gained"][:, 0].reshape(2, 8, 8)
    assert not gained[:, 3, 4].any() and gained.any()
