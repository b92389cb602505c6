"""Pictures of episodes: one size, boxes where the glimpses were, and the label marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from canvit_gym.envs import rendering
from canvit_gym.envs.rendering import PANEL_PX, pca_rgb, render_episode
from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import Viewpoint
from canvit_gym.scenes.base import Scene

MakeRollout = Callable[..., Rollout]


def black_scene(size_px: int, *, label: int = 3) -> Scene:
    picture = np.zeros((size_px, size_px, 3), dtype=np.uint8)
    return Scene(name="black", picture=picture, label=label, mask=None, target=None)


def where(frame: np.ndarray, colour: tuple[int, int, int], *, panel: int) -> np.ndarray:
    """(row, col) of the pixels of this colour inside a panel: int [n, 2]."""
    top, left = 40, 16 + panel * (PANEL_PX + 16)
    part = frame[top : top + PANEL_PX, left : left + PANEL_PX]
    return np.argwhere((part == colour).all(axis=-1))


@pytest.mark.parametrize("size_px", [128, 512, 77])
@pytest.mark.parametrize("initial_glimpse", ["full_scene", None])
def test_every_moment_of_every_scene_has_one_even_size(
    make_rollout: MakeRollout, size_px: int, initial_glimpse: str | None
) -> None:
    rollout = make_rollout(budget=2, initial_glimpse=initial_glimpse)
    episode = rollout.start([black_scene(size_px)])
    frames = [render_episode(episode, rollout=rollout)]
    for _ in range(2):
        episode = rollout.look(episode, Viewpoint.full_scene(batch_size=1))
        frames.append(render_episode(episode, rollout=rollout))
    assert {frame.shape for frame in frames} == {(312, 1104, 3)}
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert (frames[0] != frames[1]).any()


def test_the_box_lies_where_the_glimpse_was(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(initial_glimpse=None)
    viewpoint = Viewpoint(centers=torch.tensor([[-0.5, 0.25]]), scales=torch.tensor([0.25]))
    episode = rollout.look(rollout.start([black_scene(128)]), viewpoint)
    frame = render_episode(episode, rollout=rollout)
    # Rows (-0.75 .. -0.25) and columns (0 .. 0.5) of the scene, less the dark edge of one pixel.
    for panel in (0, 2):  # scene and canvas
        box = where(frame, rendering._GLIMPSE, panel=panel)
        assert box.min(axis=0).tolist() == [33, 129]
        assert box.max(axis=0).tolist() == [94, 190]


def test_earlier_boxes_stay(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(initial_glimpse=None)
    first = Viewpoint(centers=torch.tensor([[0.5, -0.5]]), scales=torch.tensor([0.5]))
    second = Viewpoint(centers=torch.tensor([[-0.5, 0.5]]), scales=torch.tensor([0.5]))
    episode = rollout.look(rollout.start([black_scene(128)]), first)
    frame = render_episode(rollout.look(episode, second), rollout=rollout)
    lower_left = frame[40 + 128 : 40 + 256, 16 : 16 + 128]
    assert lower_left.any(axis=-1).sum() > 4 * 128  # an outline, though faint


def test_the_glimpse_is_shown_as_the_model_sees_it(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(initial_glimpse=None)
    scene = black_scene(128)
    scene.picture[:64, 64:] = (200, 100, 50)  # upper right quarter
    viewpoint = Viewpoint(centers=torch.tensor([[-0.5, 0.5]]), scales=torch.tensor([0.25]))
    episode = rollout.look(rollout.start([scene]), viewpoint)
    shown = where(render_episode(episode, rollout=rollout), (200, 100, 50), panel=1)
    assert len(shown) == PANEL_PX**2


@pytest.mark.parametrize("rank", [0, 15])
def test_the_label_is_marked_even_where_it_is_least_probable(
    make_rollout: MakeRollout, rank: int
) -> None:
    rollout = make_rollout()
    episode = rollout.start([black_scene(128)])
    label = int(episode.belief[0].argsort(descending=True)[rank])
    episode = replace(episode, targets=torch.tensor([label]))
    green = where(render_episode(episode, rollout=rollout), rendering._LABEL, panel=3)
    row_of_label = min(rank, 5) * 36
    assert len(green) and (green[:, 0] >= row_of_label).all()
    assert (green[:, 0] < row_of_label + 36).all()


def test_pca_colours_are_the_tokens_own() -> None:
    tokens = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    colours = pca_rgb(tokens)
    assert colours.min() == 0 and colours.max() == 255
    difference = pca_rgb(tokens[order]).astype(int) - colours[order.numpy()]
    assert np.abs(difference).max() <= 1
    assert (pca_rgb(torch.ones(64, 16)) == 128).all()


def test_the_first_colour_is_the_direction_of_largest_variance() -> None:
    tokens = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens[:, 5] = torch.linspace(-3, 3, 64)
    red = pca_rgb(tokens)[:, 0].astype(int)
    assert np.abs(red - np.linspace(0, 255, 64)).max() < 15


def test_a_vector_env_renders_each_row(make_vector: Callable[..., CanViTVectorEnv]) -> None:
    envs = make_vector(2, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    assert frames is not None and len(frames) == 2
    for i, frame in enumerate(frames):
        expected = render_episode(envs.episode.select([i]), rollout=envs.rollout)
        np.testing.assert_array_equal(frame, expected)
    assert make_vector(1).render() is None
