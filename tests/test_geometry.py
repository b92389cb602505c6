"""The scene frame: (row, col), top left first, and crops that show what they claim to."""

from __future__ import annotations

import pytest
import torch

from canvit_gym.geometry import (
    Viewpoint,
    check_inside,
    clip_into_scene,
    grid_centers,
    grid_in_scene,
    pixel_boxes,
    random_viewpoint,
    sample_at_viewpoint,
)


def viewpoint(*numbers: tuple[float, float, float]) -> Viewpoint:
    """From (row, col, scale) of each scene."""
    table = torch.tensor(numbers)
    return Viewpoint(centers=table[:, :2], scales=table[:, 2])


def test_row_comes_first() -> None:
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, :4, 4:] = 1  # upper right: negative row, positive col
    looks = {
        position: sample_at_viewpoint(
            spatial=picture, viewpoint=viewpoint((*position, 0.5)), glimpse_size_px=4
        ).mean()
        for position in ((-0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (0.5, 0.5))
    }
    assert looks[-0.5, 0.5] == 1
    assert sum(looks.values()) == 1


def test_whole_scene_at_its_own_size_is_the_scene() -> None:
    picture = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    seen = sample_at_viewpoint(
        spatial=picture, viewpoint=Viewpoint.full_scene(batch_size=2), glimpse_size_px=12
    )
    torch.testing.assert_close(seen, picture, atol=1e-5, rtol=0)


def test_each_scene_is_cut_at_its_own_viewpoint() -> None:
    picture = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2, -1, -1, -1)
    seen = sample_at_viewpoint(
        spatial=picture,
        viewpoint=viewpoint((-0.5, 0.5, 0.5), (0.25, -0.75, 0.25)),
        glimpse_size_px=4,
    )
    torch.testing.assert_close(seen[0], picture[0, :, :4, 4:])
    # The second shows rows 4..5 and cols 0..1 on 4 x 4; a pixel's value is 8 row + col, which is
    # linear, so between their centres so is what is seen.
    assert seen[1, 0, 1, 1] == pytest.approx(8 * 4.25 + 0.25)
    assert seen[1, 0, 2, 1] == pytest.approx(8 * 4.75 + 0.25)
    assert seen[1, 0, 1, 2] == pytest.approx(8 * 4.25 + 0.75)


def test_outside_the_scene_is_zero() -> None:
    seen = sample_at_viewpoint(
        spatial=torch.ones(1, 1, 8, 8), viewpoint=viewpoint((-1.0, 0.0, 0.5)), glimpse_size_px=8
    )
    assert seen[0, 0, :3].eq(0).all()
    assert seen[0, 0, 5:].eq(1).all()
    # Within half a scene pixel of the edge, bilinear sampling fades.
    torch.testing.assert_close(seen[0, 0, 3:5, 0], torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sampling_keeps_the_dtype(dtype: torch.dtype) -> None:
    spatial = torch.full((1, 2, 6, 9), 7, dtype=dtype)  # a feature map need not be square
    seen = sample_at_viewpoint(
        spatial=spatial, viewpoint=viewpoint((0.1, 0.2, 0.5)), glimpse_size_px=5
    )
    assert seen.dtype == dtype
    assert seen.shape == (1, 2, 5, 5)
    assert (seen - 7).abs().max() <= 1e-5


def test_grid_is_row_major_between_the_edges() -> None:
    expected = [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert grid_centers(2).tolist() == expected
    assert grid_centers(1).tolist() == [[0, 0]]
    axis = grid_centers(4).reshape(4, 4, 2)[:, 0, 0]
    assert axis.tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_grid_in_scene_moves_and_shrinks_with_the_viewpoint() -> None:
    positions = grid_in_scene(viewpoint((0.5, -0.25, 0.5)), 2)
    assert positions.tolist() == [[[0.25, -0.5], [0.25, 0.0], [0.75, -0.5], [0.75, 0.0]]]


def test_pixel_boxes_are_top_left_bottom_right() -> None:
    boxes = pixel_boxes(viewpoint((0, 0, 1), (-0.5, 0.25, 0.25)), scene_size_px=128)
    assert boxes.tolist() == [[0, 0, 128, 128], [16, 64, 48, 96]]


def test_agrees_with_the_reference() -> None:
    reference = pytest.importorskip("canvit_pytorch.viewpoint")
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(5, 3, 37, 50, generator=generator)
    ours = Viewpoint(
        centers=torch.rand(5, 2, generator=generator) * 2 - 1,
        scales=torch.rand(5, generator=generator) * 0.9 + 0.1,
    )
    theirs = reference.Viewpoint(centers=ours.centers, scales=ours.scales)
    torch.testing.assert_close(
        sample_at_viewpoint(spatial=picture, viewpoint=ours, glimpse_size_px=11),
        reference.sample_at_viewpoint(spatial=picture, viewpoint=theirs, glimpse_size_px=11),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        grid_in_scene(ours, 6).reshape(5, 6, 6, 2),
        reference.viewpoint_grid_coords(theirs, size=6),
    )
    torch.testing.assert_close(
        pixel_boxes(ours, scene_size_px=512), reference.crop_box_px(theirs, image_size_px=512)
    )


def test_inside_is_inside() -> None:
    check_inside(viewpoint((0, 0, 1), (0.5, -0.5, 0.5), (-0.9, 0.0, 0.1)))


@pytest.mark.parametrize(
    "outside",
    [
        (0.6, 0.0, 0.5),
        (0.0, -0.6, 0.5),
        (0.0, 0.0, 1.1),
        (0.0, 0.0, 0.0),
        (0.0, 0.0, -0.5),
        (float("nan"), 0.0, 0.5),
        (0.0, float("nan"), 0.5),
        (0.0, 0.0, float("nan")),
        (float("inf"), 0.0, 0.5),
    ],
)
def test_outside_is_refused_by_number(outside: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="Viewpoint 1 .*leaves the scene"):
        check_inside(viewpoint((0, 0, 1), outside))


@pytest.mark.parametrize(
    ("centers", "scales", "message"),
    [
        (torch.zeros(2), torch.ones(2), r"centers have shape \(2,\)"),
        (torch.zeros(2, 3), torch.ones(2), r"centers have shape \(2, 3\)"),
        (torch.zeros(2, 2), torch.ones(3), r"scales have shape \(3,\)"),
        (torch.zeros(2, 2), torch.ones(2, 1), r"scales have shape \(2, 1\)"),
        (torch.zeros(2, 2, dtype=torch.float64), torch.ones(2), "float64"),
        (torch.zeros(2, 2), torch.ones(2, dtype=torch.int64), "int64"),
    ],
)
def test_malformed_viewpoint_is_refused(
    centers: torch.Tensor, scales: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Viewpoint(centers=centers, scales=scales)


def test_some_of_the_viewpoints() -> None:
    three = viewpoint((0.0, 0.1, 0.5), (0.2, 0.3, 0.6), (0.4, 0.5, 0.7))
    assert three.batch_size == 3
    kept = three[torch.tensor([True, False, True])]
    torch.testing.assert_close(kept.centers, torch.tensor([[0.0, 0.1], [0.4, 0.5]]))
    torch.testing.assert_close(kept.scales, torch.tensor([0.5, 0.7]))
    assert three[1:].batch_size == 2


def test_random_viewpoints_are_inside_and_spread_as_in_the_paper() -> None:
    drawn = random_viewpoint(
        batch_size=20_000, min_scale=0.05, generator=torch.Generator().manual_seed(3)
    )
    check_inside(drawn)
    assert drawn.scales.min() >= 0.05 - 1e-6
    # The density falls linearly from 0.05 to 0 at 1, so the mean is a third of the way.
    assert drawn.scales.mean() == pytest.approx(0.05 + 0.95 / 3, abs=0.01)
    # And centres fill the room that the scale leaves: uniform, so of mean distance a half.
    room = drawn.centers.abs() / (1 - drawn.scales)[:, None]
    torch.testing.assert_close(room.mean(0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)


def test_clipping_moves_only_what_sticks_out() -> None:
    clipped = clip_into_scene(
        centers=torch.tensor([[0.9, -0.2], [0.1, -1.0], [0.3, 0.3]]),
        scales=torch.tensor([0.5, 0.25, 1.0]),
    )
    expected = torch.tensor([[0.5, -0.2], [0.1, -0.75], [0.0, 0.0]])
    torch.testing.assert_close(clipped.centers, expected)
    check_inside(clipped)
