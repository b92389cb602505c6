"""Observations: CanViT's features in their documented place, inside the space, small enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from canvit_gym.envs.observations import Observations
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.geometry import OFFICIAL_GLIMPSE, Viewpoint, random_viewpoint
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import Classification

SCENES = [EmojiScenes(split="train")[i] for i in range(3)]


def look_around(rollout: Rollout, *, glimpses: int) -> Episode:
    generator = torch.Generator().manual_seed(0)
    episode = rollout.start(SCENES)
    for _ in range(glimpses):
        viewpoint = random_viewpoint(batch_size=3, min_scale=0.25, generator=generator)
        episode = rollout.look(episode, viewpoint)
    return episode


@pytest.fixture
def reduced(make_rollout: Callable[..., Rollout]) -> Rollout:
    """A rollout whose 16 x 16 canvas is too large to be observed whole."""
    rollout = make_rollout()
    return replace(rollout, glimpse=replace(rollout.glimpse, canvas_grid_size=16))


@pytest.mark.parametrize("kind", ["compact", "full"])
@pytest.mark.parametrize("initial_glimpse", ["full_scene", None])
def test_observations_are_in_the_space(
    make_rollout: Callable[..., Rollout], kind: str, initial_glimpse: str | None
) -> None:
    rollout = make_rollout(budget=2, initial_glimpse=initial_glimpse)
    observations = Observations(rollout=rollout, kind=kind)  # type: ignore[arg-type]
    for glimpses in range(3):
        observed = observations.observe(look_around(rollout, glimpses=glimpses))
        for i in range(3):
            row = {key: value[i].numpy() for key, value in observed.items()}
            assert observations.space.contains(row)


def test_the_canvas_is_layer_normed_patches_with_row_before_col(
    make_rollout: Callable[..., Rollout],
) -> None:
    rollout = make_rollout()
    episode = look_around(rollout, glimpses=2)
    config = rollout.task.model.canvit.config
    patches = episode.state.canvas[:, config.num_canvas_registers :]
    observed = Observations(rollout=rollout).observe(episode)
    for row, col in ((0, 0), (2, 5), (7, 1)):
        expected = F.layer_norm(patches[:, row * 8 + col], (config.canvas_dim,))
        torch.testing.assert_close(observed["canvas"][:, :, row, col], expected)
    expected = F.layer_norm(episode.state.recurrent_cls[:, 0], (config.backbone.dim,))
    torch.testing.assert_close(observed["cls"], expected)


def test_history_and_progress(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout(budget=3)
    viewpoint = Viewpoint(
        centers=torch.tensor([[-0.5, 0.25]]).expand(3, 2), scales=torch.full((3,), 0.5)
    )
    episode = rollout.look(rollout.start(SCENES), viewpoint)
    observed = Observations(rollout=rollout).observe(episode)
    expected = [[0, 0, 1, 1], [-0.5, 0.25, 0.5, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert observed["viewpoints"][1].tolist() == expected
    assert observed["progress"].tolist() == [[pytest.approx(1 / 3)]] * 3


def test_canvit_b_fits_32_kib() -> None:
    with torch.device("meta"):  # the shapes of 95 million parameters without their memory
        model = CanViTForImageClassification(canvit_config=CanViTConfig(), n_classes=2)
    task = Classification(model=model, class_names=("cat", "dog"))
    rollout = Rollout(task=task, glimpse=OFFICIAL_GLIMPSE)

    def size_bytes(kind: str) -> int:
        space = Observations(rollout=rollout, kind=kind).space  # type: ignore[arg-type]
        return sum(4 * int(np.prod(part.shape)) for part in space.values())

    assert size_bytes("compact") <= 32 * 1024
    assert size_bytes("full") > 4 * 1024 * 1024


def test_a_reduced_canvas_keeps_places(reduced: Rollout) -> None:
    """What changes in one canvas cell shows in the one block that holds it, and nowhere else."""
    observations = Observations(rollout=reduced)
    assert observations.space["canvas"].shape == (96, 8, 8)
    episode = look_around(reduced, glimpses=1)
    registers = reduced.task.model.canvit.config.num_canvas_registers
    canvas = episode.state.canvas.clone()
    row, col = 3, 12
    canvas[:, registers + row * 16 + col] = torch.linspace(-1, 1, canvas.shape[2])
    other = replace(episode, state=replace(episode.state, canvas=canvas))
    difference = observations.observe(other)["canvas"] - observations.observe(episode)["canvas"]
    changed = (difference.abs().amax(dim=(0, 1)) > 1e-6).nonzero().tolist()
    assert changed == [[row // 2, col // 2]]


def test_a_reduced_canvas_is_the_full_one_pooled_and_projected(reduced: Rollout) -> None:
    episode = look_around(reduced, glimpses=0)
    noise = torch.randn(episode.state.canvas.shape, generator=torch.Generator().manual_seed(0))
    episode = replace(episode, state=replace(episode.state, canvas=noise))
    full = Observations(rollout=reduced, kind="full").observe(episode)["canvas"]
    assert full.shape == (3, 128, 16, 16)
    pooled = F.avg_pool2d(full, 2).flatten(2).mT.flatten(0, 1)
    compact = Observations(rollout=reduced).observe(episode)["canvas"].flatten(2).mT.flatten(0, 1)
    # 192 cells determine the 128 x 96 map between them but for one direction, because LayerNormed
    # tokens have no mean. It must exist, and be orthonormal.
    projection = torch.linalg.lstsq(pooled, compact, driver="gelsd").solution
    torch.testing.assert_close(pooled @ projection, compact, rtol=0, atol=1e-4)
    stretch = torch.linalg.svdvals(projection)[:-1]
    torch.testing.assert_close(stretch, torch.ones(95), rtol=0, atol=1e-4)


def test_blocks_may_overlap_where_the_grids_do_not_fit(reduced: Rollout) -> None:
    odd = replace(reduced, glimpse=replace(reduced.glimpse, canvas_grid_size=13))
    episode = look_around(odd, glimpses=2)
    full = Observations(rollout=odd, kind="full").observe(episode)["canvas"]
    compact = Observations(rollout=odd)
    pooled = F.adaptive_avg_pool2d(full, 8)
    expected = torch.einsum("bchw,cd->bdhw", pooled, compact._projection)
    torch.testing.assert_close(compact.observe(episode)["canvas"], expected, rtol=0, atol=1e-5)


def test_entropy_is_averaged_where_the_canvas_is(
    make_segmentation_rollout: Callable[..., Rollout],
) -> None:
    rollout = make_segmentation_rollout()
    rollout = replace(rollout, glimpse=replace(rollout.glimpse, canvas_grid_size=16))
    episode = look_around(rollout, glimpses=1)
    share = rollout.task.entropy_map(episode.belief) / math.log(47)
    assert share.shape == (3, 16, 16) and share.std() > 0.01
    for kind, expected in (("full", share), ("compact", F.avg_pool2d(share, 2))):
        observed = Observations(rollout=rollout, kind=kind).observe(episode)  # type: ignore[arg-type]
        torch.testing.assert_close(observed["entropy"], expected[:, None], rtol=0, atol=1e-5)


def test_the_projection_is_the_same_every_time(reduced: Rollout) -> None:
    episode = look_around(reduced, glimpses=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = Observations(rollout=reduced).observe(episode)["canvas"]
        torch.manual_seed(2)
        second = Observations(rollout=reduced).observe(episode)["canvas"]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
