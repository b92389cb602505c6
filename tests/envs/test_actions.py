"""Actions: always inside the scene, in the documented layout, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from canvit_gym.envs.actions import (
    ActionKind,
    Actions,
    BoxActions,
    cell_actions,
    make_actions,
    tile_actions,
)
from canvit_gym.geometry import (
    MINI_GLIMPSE,
    Viewpoint,
    check_inside,
    pixel_boxes,
    random_viewpoint,
)

MIN_SCALE = 0.25


def as_table(viewpoint: Viewpoint) -> np.ndarray:
    """[B, 3] of (row, col, scale)."""
    return torch.cat((viewpoint.centers, viewpoint.scales[:, None]), dim=1).numpy()


def test_no_box_action_leaves_the_scene() -> None:
    edges = np.array(np.meshgrid(*[[-1.0, -0.3, 0.0, 1.0]] * 3)).reshape(3, -1).T
    drawn = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    for min_scale in (0.05, 0.25, 0.9):
        actions = BoxActions(min_scale=min_scale)
        viewpoint = actions.viewpoint(np.concatenate((edges, drawn)).astype(np.float32))
        check_inside(viewpoint, tolerance=1e-6)
        assert float(viewpoint.scales.min()) >= min_scale - 1e-6
        assert float(viewpoint.scales.max()) <= 1


def test_a_box_action_is_row_col_and_geometric_zoom() -> None:
    actions = BoxActions(min_scale=MIN_SCALE)
    table = as_table(
        actions.viewpoint(np.array([[0.4, 0.9, -1], [-1, 0.5, 1], [1, -1, 0]], dtype=np.float32))
    )
    expected = [[0, 0, 1], [-0.75, 0.375, 0.25], [0.5, -0.5, 0.5]]
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_box_actions_reach_every_viewpoint() -> None:
    actions = BoxActions(min_scale=MIN_SCALE)
    wanted = random_viewpoint(
        batch_size=2000, min_scale=MIN_SCALE, generator=torch.Generator().manual_seed(0)
    )
    nearest = actions.nearest(wanted)
    assert nearest.dtype == np.float32 and (np.abs(nearest) <= 1).all()
    np.testing.assert_allclose(as_table(actions.viewpoint(nearest)), as_table(wanted), atol=2e-6)


def test_the_nearest_box_action_of_the_whole_scene_is_fully_zoomed_out() -> None:
    nearest = BoxActions(min_scale=MIN_SCALE).nearest(Viewpoint.full_scene(batch_size=1))
    np.testing.assert_allclose(nearest, [[0, 0, -1]], atol=1e-6)


def test_cells_are_laid_out_scale_by_scale_and_row_major() -> None:
    grid, scales = 8, (0.25, 0.5)
    actions = cell_actions(grid_size=grid, scales=scales)
    assert actions.space.n == len(scales) * grid * grid
    level, row, col = 1, 2, 5
    viewpoint = actions.viewpoint(np.array([(level * grid + row) * grid + col]))
    # cell centres are at -7/8, -5/8, -3/8, ...
    np.testing.assert_allclose(as_table(viewpoint), [[-3 / 8, 3 / 8, 0.5]])
    corner = actions.viewpoint(np.array([0 * grid * grid + 0 * grid + 7]))
    np.testing.assert_allclose(as_table(corner), [[-0.75, 0.75, 0.25]])  # clipped, upper right
    check_inside(actions.viewpoints)


def test_each_level_of_tiles_covers_every_pixel_once() -> None:
    tiles = tile_actions().viewpoints
    assert tiles.batch_size == 1 + 4 + 16
    boxes = pixel_boxes(tiles, scene_size_px=16).round().int().tolist()
    for first, last in ((0, 1), (1, 5), (5, 21)):
        painted = np.zeros((16, 16), dtype=int)
        for top, left, bottom, right in boxes[first:last]:
            painted[top:bottom, left:right] += 1
        assert (painted == 1).all()
    np.testing.assert_allclose(as_table(tiles)[2], [-0.5, 0.5, 0.5])  # row-major: upper right


@pytest.mark.parametrize(
    "actions", [tile_actions(), cell_actions(grid_size=4, scales=(0.2, 0.5, 1.0))]
)
def test_listed_actions_come_back_from_their_viewpoints(actions: object) -> None:
    everything = np.arange(actions.space.n)  # type: ignore[attr-defined]
    viewpoint = actions.viewpoint(everything)  # type: ignore[attr-defined]
    again = actions.viewpoint(actions.nearest(viewpoint))  # type: ignore[attr-defined]
    # Clipping makes some cells mean the same viewpoint, so viewpoints are compared, not numbers.
    np.testing.assert_array_equal(as_table(again), as_table(viewpoint))


def test_the_nearest_listed_action_is_the_nearest() -> None:
    actions = tile_actions()
    wanted = Viewpoint(
        centers=torch.tensor([[0.4, -0.6], [0.05, -0.02]]), scales=torch.tensor([0.45, 0.9])
    )
    assert actions.nearest(wanted).tolist() == [3, 0]  # lower left quarter; whole scene


def both_ways(kind: ActionKind) -> tuple[Actions, Actions]:
    """Without and with the action that stops."""
    without, with_stop = (
        make_actions(
            kind,
            glimpse=MINI_GLIMPSE,
            cell_grid=4,
            cell_scales=(0.25, 0.5),
            stop_action=stop_action,
        )
        for stop_action in (False, True)
    )
    return without, with_stop


@pytest.mark.parametrize("kind", ["cell", "tile"])
def test_the_last_of_listed_actions_stops(kind: ActionKind) -> None:
    without, actions = both_ways(kind)
    count = int(without.space.n)  # type: ignore[attr-defined]
    assert actions.space.n == count + 1  # type: ignore[attr-defined]
    choice = actions.choice(np.arange(count + 1))
    assert choice.stop.tolist() == [False] * count + [True]
    looks = without.choice(np.arange(count))
    np.testing.assert_array_equal(as_table(choice.viewpoint)[:-1], as_table(looks.viewpoint))
    assert not looks.stop.any()
    check_inside(choice.viewpoint)
    with pytest.raises(ValueError, match=f"from 0 to {count}"):
        actions.choice(np.array([count + 1]))
    nearest = actions.nearest(Viewpoint.full_scene(batch_size=3))
    assert not actions.choice(nearest).stop.any()  # stopping is near to no viewpoint


def test_a_fourth_number_above_0_stops() -> None:
    without, actions = both_ways("box")
    assert actions.space.shape == (4,)
    drawn = np.random.default_rng(0).uniform(-1, 1, (200, 4)).astype(np.float32)
    drawn[:3, 3] = 0, 1e-6, -1e-6
    choice = actions.choice(drawn)
    np.testing.assert_array_equal(choice.stop, drawn[:, 3] > 0)
    looks = without.choice(drawn[:, :3])
    np.testing.assert_array_equal(as_table(choice.viewpoint), as_table(looks.viewpoint))
    assert not looks.stop.any()
    nearest = actions.nearest(choice.viewpoint)
    assert nearest.shape == (200, 4) and not actions.choice(nearest).stop.any()
    np.testing.assert_allclose(nearest[:, :3], without.nearest(looks.viewpoint))
