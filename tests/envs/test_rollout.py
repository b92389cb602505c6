"""Episodes are values: looking returns a new one, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from canvit_gym.envs.rollout import Choice, Episode, Rollout
from canvit_gym.geometry import Viewpoint
from canvit_gym.model.frozen import freeze
from canvit_gym.scenes.emoji import EmojiScenes

MakeRollout = Callable[..., Rollout]
SCENES = [EmojiScenes(split="train")[i] for i in range(4)]


def views(*rows: tuple[float, float, float]) -> Viewpoint:
    table = torch.tensor(rows)
    return Viewpoint(centers=table[:, :2], scales=table[:, 2])


FOUR = views((0.5, -0.25, 0.5), (-0.1, 0.2, 0.3), (0.7, 0.7, 0.25), (0.0, 0.0, 1.0))


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in an episode by their path."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{name}.{key}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")


def assert_same(a: Episode, b: Episode, *, atol: float = 0.0) -> None:
    assert [scene.name for scene in a.scenes] == [scene.name for scene in b.scenes]
    for (name, x), (_, y) in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_looking_leaves_the_old_episode_alone(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start(SCENES)
    before = {name: tensor.clone() for name, tensor in tensors(episode)}
    after = rollout.look(episode, FOUR)
    for name, tensor in tensors(episode):
        assert torch.equal(tensor, before[name]), name
    assert (after.belief != episode.belief).any()
    assert episode.glimpses.tolist() == [1] * 4 and after.glimpses.tolist() == [2] * 4
    assert after.looks.tolist() == [1] * 4


def test_peeking_twice_shows_the_same(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start(SCENES)
    first = rollout.look(episode, FOUR)
    elsewhere = rollout.look(episode, views(*[(-0.5, 0.5, 0.5)] * 4))
    assert_same(rollout.look(episode, FOUR), first)
    assert (elsewhere.belief - first.belief).abs().amax() > 1e-3


def test_a_batch_is_its_scenes_one_by_one(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(budget=2)
    together = rollout.look(rollout.look(rollout.start(SCENES), FOUR), FOUR[[1, 0, 3, 2]])
    for i, scene in enumerate(SCENES):
        j = [1, 0, 3, 2][i]
        alone = rollout.look(rollout.start([scene]), FOUR[i : i + 1])
        alone = rollout.look(alone, FOUR[j : j + 1])
        assert_same(together.select([i]), alone, atol=2e-4)


def test_select_and_put(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.look(rollout.start(SCENES), FOUR)
    swapped = episode.select([3, 0, 0])
    assert [s.name for s in swapped.scenes] == [SCENES[i].name for i in (3, 0, 0)]
    assert_same(swapped.select([1]), episode.select([0]))
    fresh = rollout.start([SCENES[1]])
    mixed = episode.put([2], fresh)
    assert mixed.glimpses.tolist() == [2, 2, 1, 2]
    assert_same(mixed.select([2]), fresh)
    assert_same(mixed.select([0, 1, 3]), episode.select([0, 1, 3]))
    assert episode.glimpses.tolist() == [2] * 4  # a copy was made


def test_rows_may_be_at_different_glimpses(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(budget=2)
    ahead = rollout.look(rollout.start(SCENES), FOUR)
    mixed = rollout.look(ahead.put([1, 2], rollout.start(SCENES[1:3])), FOUR)
    assert mixed.looks.tolist() == [2, 1, 1, 2]
    assert rollout.finished(mixed).tolist() == [True, False, False, True]
    assert mixed.history[0, 2].tolist() == pytest.approx([0.5, -0.25, 0.5])
    assert mixed.history[1].tolist()[2] == [0, 0, 0]
    assert_same(mixed.select([1, 2]), ahead.select([1, 2]), atol=2e-4)


def test_a_blind_start_has_seen_nothing(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(initial_glimpse=None, budget=1)
    episode = rollout.start(SCENES)
    assert episode.glimpses.tolist() == episode.looks.tolist() == [0] * 4
    assert not episode.history.any()
    assert (episode.belief == episode.belief[0]).all()  # the scenes cannot matter yet
    assert rollout.finished(rollout.look(episode, FOUR)).all()


def test_a_blind_look_at_the_whole_scene_is_the_usual_start(make_rollout: MakeRollout) -> None:
    blind = make_rollout(initial_glimpse=None)
    looked = blind.look(blind.start(SCENES), Viewpoint.full_scene(batch_size=4))
    usual = make_rollout().start(SCENES)
    torch.testing.assert_close(looked.belief, usual.belief)
    assert looked.looks.tolist() == [1] * 4 and usual.looks.tolist() == [0] * 4


def test_bfloat16_keeps_the_state_in_float32(make_rollout: MakeRollout) -> None:
    half, full = make_rollout(precision="bfloat16"), make_rollout()
    episode = half.look(half.start(SCENES), FOUR)
    exact = full.look(full.start(SCENES), FOUR)
    assert episode.state.canvas.dtype == episode.belief.dtype == torch.float32
    difference = (episode.state.canvas - exact.state.canvas).abs()
    assert 0 < difference.max() < 0.1 * exact.state.canvas.abs().max()  # it did run in bfloat16


@pytest.mark.parametrize("initial_glimpse", ["full_scene", None])
def test_bfloat16_episodes_can_be_mixed(
    make_rollout: MakeRollout, initial_glimpse: str | None
) -> None:
    rollout = make_rollout(precision="bfloat16", initial_glimpse=initial_glimpse)
    ahead = rollout.look(rollout.start(SCENES), FOUR)
    mixed = ahead.put([0], rollout.start(SCENES[:1]))
    assert mixed.glimpses[0] < mixed.glimpses[1]
    rollout.look(mixed, FOUR)


def test_a_frozen_backbone_starts_alike_every_time(make_rollout: MakeRollout) -> None:
    """It may write on the canvas before the first glimpse, but not on what that came from."""
    rollout = make_rollout()
    model = freeze(copy.deepcopy(rollout.task.model))
    frozen = replace(rollout, task=replace(rollout.task, model=model))
    first, second, plain = frozen.start(SCENES), frozen.start(SCENES), rollout.start(SCENES)
    assert torch.equal(first.state.canvas, second.state.canvas)
    torch.testing.assert_close(first.state.canvas, plain.state.canvas, rtol=0, atol=1e-4)
    torch.testing.assert_close(first.belief, plain.belief, rtol=0, atol=1e-4)


def test_the_budget_is_kept(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(budget=1)
    episode = rollout.look(rollout.start(SCENES), FOUR)
    with pytest.raises(ValueError, match="budget of 1 glimpses is used up"):
        rollout.look(episode, FOUR)


def test_a_stopped_episode_is_over_and_nothing_else_of_it_changes(
    make_rollout: MakeRollout,
) -> None:
    rollout = make_rollout(budget=2)
    episode = rollout.look(rollout.start(SCENES), FOUR)
    mask = torch.tensor([True, False, False, True])
    stopped = rollout.stop(episode, mask)
    assert rollout.finished(stopped).tolist() == mask.tolist()
    assert not rollout.finished(episode).any()  # the old one goes on
    assert_same(replace(stopped, stopped=episode.stopped), episode)
    with pytest.raises(ValueError, match="was stopped already"):
        rollout.look(stopped, FOUR)
    with pytest.raises(ValueError, match="was stopped already"):
        rollout.stop(stopped, mask)
    assert rollout.finished(rollout.stop(stopped, ~mask)).all()
    with pytest.raises(ValueError, match="budget of 2 glimpses is used up"):
        rollout.stop(rollout.look(episode, FOUR), mask)
    with pytest.raises(ValueError, match="2 entries of a mask were given for 4 scenes"):
        rollout.stop(episode, mask[:2])


def test_some_look_while_others_stop(
    make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One forward for those that look; what is said of the others' places does not matter."""
    rollout = make_rollout()
    episode = rollout.start(SCENES)
    looked = rollout.look(episode, FOUR)
    sizes: list[int] = []
    canvit = rollout.task.model.canvit
    forward = canvit.forward
    monkeypatch.setattr(
        canvit, "forward", lambda **kw: (sizes.append(len(kw["glimpse"])), forward(**kw))[1]
    )
    stop = torch.tensor([False, True, False, True])
    nowhere = views((0.5, -0.25, 0.5), (float("nan"), 9, 9), (0.7, 0.7, 0.25), (5, 5, -1))
    after = rollout.act(episode, Choice(viewpoint=nowhere, stop=stop))
    assert sizes == [2]
    assert_same(after.select([0, 2]), looked.select([0, 2]), atol=2e-4)
    assert_same(after.select([1, 3]), rollout.stop(episode, stop).select([1, 3]))
    assert rollout.finished(after).tolist() == stop.tolist()

    assert_same(rollout.act(episode, Choice.look(FOUR)), looked)
    everyone = torch.ones(4, dtype=torch.bool)
    all_stopped = rollout.act(episode, Choice(viewpoint=nowhere, stop=everyone))
    assert sizes == [2, 4] and rollout.finished(all_stopped).all()
    with pytest.raises(ValueError, match="Viewpoint 1 .* leaves the scene"):
        rollout.act(episode, Choice(viewpoint=nowhere, stop=~everyone))
    with pytest.raises(ValueError, match="was stopped already"):
        rollout.act(after, Choice.look(FOUR))


def test_viewpoints_must_fit_scene_and_batch(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start(SCENES[:2])
    for bad in ((0.6, 0.0, 0.5), (0.0, -0.6, 0.5), (0.0, 0.0, 0.0), (float("nan"), 0.0, 0.5)):
        with pytest.raises(ValueError, match="Viewpoint 1 .* leaves the scene"):
            rollout.look(episode, views((0, 0, 1), bad))
    with pytest.raises(ValueError, match="4 viewpoints were given for 2 scenes"):
        rollout.look(episode, FOUR)


def test_a_sample_is_what_the_model_sees(make_rollout: MakeRollout) -> None:
    """At half scale a glimpse of 32 pixels spans 64 of the scene: each is the mean of four."""
    rollout = make_rollout()
    episode = rollout.start(SCENES[:1])
    sample = rollout.sample(episode, views((-0.5, 0.5, 0.5)))  # upper right quarter
    quarter = episode.pictures[:, :, :64, 64:]
    torch.testing.assert_close(sample, torch.nn.functional.avg_pool2d(quarter, 2))
