"""Pictures of episodes: one size, boxes where the glimpses were, the label or the masks marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from canvit_gym import drawing
from canvit_gym.envs.rendering import (
    PANEL_PX,
    CanvasColours,
    canvas_colours,
    render_episode,
)
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE, Viewpoint
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe
from canvit_gym.palette import IGNORED, class_colours, heat, oklab
from canvit_gym.scenes.base import IGNORE, Scene
from canvit_gym.scenes.emoji import MASK_CLASS_NAMES, EmojiScenes
from canvit_gym.tasks.segmentation import Segmentation

MakeRollout = Callable[..., Rollout]

GRID = MINI_GLIMPSE.canvas_grid_size
CELL_PX = PANEL_PX // GRID
COLOURS = class_colours(len(MASK_CLASS_NAMES))


def black_scene(size_px: int, *, label: int = 3, mask: np.ndarray | None = None) -> Scene:
    picture = np.zeros((size_px, size_px, 3), dtype=np.uint8)
    return Scene(name="black", picture=picture, label=label, mask=mask, target=None)


def panel_of(frame: np.ndarray, *, column: int, row: int = 0) -> np.ndarray:
    """uint8 [PANEL_PX, PANEL_PX, 3]."""
    top, left = 40 + row * (PANEL_PX + 24 + 16), 16 + column * (PANEL_PX + 16)
    return frame[top : top + PANEL_PX, left : left + PANEL_PX]


def where(frame: np.ndarray, colour: tuple[int, int, int], *, panel: int) -> np.ndarray:
    """(row, col) of the pixels of this colour inside a panel of the first row: int [n, 2]."""
    return np.argwhere((panel_of(frame, column=panel) == colour).all(axis=-1))


@pytest.fixture(scope="module")
def make_segmentation(make_rollout: MakeRollout) -> MakeRollout:
    """Rollouts that segment emoji scenes with a random probe; keyword arguments are Rollout's and
    `label_size_px`, by default the canvas grid's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        canvit = make_rollout().task.model.canvit
        probe = SegmentationProbe(
            embed_dim=canvit.config.canvas_dim,
            num_classes=len(MASK_CLASS_NAMES),
            dropout=0.1,
            use_ln=True,
        )
    model = CanViTForSemanticSegmentation(canvit=canvit, probe=probe.eval())

    def make(*, label_size_px: int = GRID, **kwargs: Any) -> Rollout:
        task = Segmentation(model=model, class_names=MASK_CLASS_NAMES, label_size_px=label_size_px)
        return Rollout(task=task, glimpse=MINI_GLIMPSE, **kwargs)

    return make


def corner_classes(size: int) -> np.ndarray:
    """Class 7, but 2 in the lower left quarter and 5 in a strip along the right edge: uint8."""
    classes = np.full((size, size), 7, dtype=np.uint8)
    classes[size // 2 :, : size // 2] = 2
    classes[:, -size // 8 :] = 5
    return classes


def believe(episode: Episode, classes: np.ndarray, rollout: Rollout) -> Episode:
    """The episode with a belief that is sure of these classes, uint8 [G, G], judged anew."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), len(MASK_CLASS_NAMES))
    belief = 50.0 * one_hot.permute(2, 0, 1)[None]
    verdict = rollout.task.judge(belief, episode.targets)
    return replace(episode, belief=belief, potentials=verdict.potentials, outcome=verdict.outcome)


@contextmanager
def texts_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All texts that are drawn meanwhile."""
    texts: list[str] = []
    draw_text = ImageDraw.ImageDraw.text

    def note(self: ImageDraw.ImageDraw, place: Any, text: str, *args: Any, **kwargs: Any) -> None:
        texts.append(text)
        draw_text(self, place, text, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", note)
        yield texts


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
        box = where(frame, drawing.GLIMPSE, panel=panel)
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
    green = where(render_episode(episode, rollout=rollout), drawing.MARKED, panel=3)
    row_of_label = min(rank, 5) * 36
    assert len(green) and (green[:, 0] >= row_of_label).all()
    assert (green[:, 0] < row_of_label + 36).all()


def test_bars_are_as_long_as_the_belief_and_the_budget(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(budget=4)
    episode = rollout.start([black_scene(128)])
    episode = rollout.look(episode, Viewpoint.full_scene(batch_size=1))
    order = episode.belief[0].argsort(descending=True)
    episode = replace(episode, targets=order[1:2])  # the label is the second bar
    belief = panel_of(render_episode(episode, rollout=rollout), column=3)
    for i, class_id in enumerate(order[:6].tolist()):
        length = round(float(episode.belief[0, class_id].exp()) * PANEL_PX)
        colour = drawing.MARKED if i == 1 else drawing.OTHER
        bar = belief[i * 36 + 19 : i * 36 + 27]
        assert (bar[:, :length] == colour).all()
        assert (bar[:, length:] == drawing.EMPTY).all()
    assert (belief[-8:, :64] == drawing.GLIMPSE).all()  # 1 of 4 glimpses
    assert (belief[-8:, 64:] == drawing.EMPTY).all()


def test_pca_colours_are_the_tokens_own() -> None:
    tokens = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    colours = CanvasColours.fit(tokens)(tokens)
    # A quarter of the range to spare on both sides: from 255 / 6 to 255 * 5 / 6.
    assert colours.min() == 42 and colours.max() == 212
    difference = CanvasColours.fit(tokens[order])(tokens).astype(int) - colours
    assert np.abs(difference).max() <= 1
    same = torch.ones(64, 16)
    assert (CanvasColours.fit(same)(same) == 128).all()


def test_the_first_colour_is_the_direction_of_largest_variance() -> None:
    tokens = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens[:, 5] = torch.linspace(-3, 3, 64)
    red = CanvasColours.fit(tokens)(tokens)[:, 0].astype(int)
    assert np.abs(red - np.linspace(42.5, 212.5, 64)).max() < 15


def test_a_cell_that_stays_keeps_its_colour(make_rollout: MakeRollout) -> None:
    """The colours of an episode's frames are those of its first canvas, whatever comes later."""
    rollout = make_rollout(budget=2)
    first = rollout.start([EmojiScenes(split="train")[0]])
    corner = Viewpoint(centers=torch.tensor([[-0.75, -0.75]]), scales=torch.tensor([0.25]))
    later = rollout.look(first, corner)
    colours, then = (canvas_colours(e, rollout=rollout) for e in (first, later))
    for name in ("mean", "components", "low", "high"):
        assert torch.equal(getattr(colours, name), getattr(then, name))
    # Cells of the first canvas put back among the later ones are drawn as they were.
    kept = torch.arange(later.state.canvas.shape[1]) % 2 == 0
    mixed = torch.where(kept[:, None], first.state.canvas, later.state.canvas)
    half = replace(later, state=replace(later.state, canvas=mixed))
    panels = [panel_of(render_episode(e, rollout=rollout), column=2) for e in (first, later, half)]
    before, after, both = (p[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX] for p in panels)
    patches = kept[-(GRID**2) :].reshape(GRID, GRID).clone()
    patches[0, 0] = False  # behind the edge of the glimpse and its number
    np.testing.assert_array_equal(both[patches], before[patches])
    assert (before != after).any()


def test_before_the_first_glimpse_the_canvas_is_grey(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(initial_glimpse=None)
    frame = render_episode(rollout.start([EmojiScenes(split="train")[0]]), rollout=rollout)
    assert (panel_of(frame, column=2) == 128).all()


def test_a_vector_env_renders_each_row(make_vector: Callable[..., CanViTVectorEnv]) -> None:
    envs = make_vector(2, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    assert frames is not None and len(frames) == 2
    for i, frame in enumerate(frames):
        expected = render_episode(envs.episode.select([i]), rollout=envs.rollout)
        np.testing.assert_array_equal(frame, expected)
    assert make_vector(1).render() is None


@pytest.mark.parametrize("size_px", [128, 77])
@pytest.mark.parametrize("label_size_px", [GRID, 128])
def test_every_segmentation_frame_has_one_even_size(
    make_segmentation: MakeRollout, size_px: int, label_size_px: int
) -> None:
    rollout = make_segmentation(budget=1, initial_glimpse=None, label_size_px=label_size_px)
    nothing = np.full((size_px, size_px), IGNORE, dtype=np.uint8)
    shapes = set()
    for mask in (corner_classes(size_px), nothing):
        episode = rollout.start([black_scene(size_px, mask=mask)])
        shapes.add(render_episode(episode, rollout=rollout).shape)
        episode = rollout.look(episode, Viewpoint.full_scene(batch_size=1))
        shapes.add(render_episode(episode, rollout=rollout).shape)
    assert shapes == {(608, 1104, 3)}


def test_masks_show_each_class_in_its_place(make_segmentation: MakeRollout) -> None:
    rollout = make_segmentation()
    decoded, true = corner_classes(GRID), corner_classes(GRID)
    true[0, 1] = IGNORE
    true[2, :4] = 40
    episode = believe(rollout.start([black_scene(GRID, mask=true)]), decoded, rollout)
    frame = render_episode(episode, rollout=rollout)

    def enlarged(cells: np.ndarray) -> np.ndarray:
        return cells.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)

    np.testing.assert_array_equal(panel_of(frame, column=0, row=1), enlarged(COLOURS[decoded]))
    colours = COLOURS[np.where(true == IGNORE, 0, true)]
    colours[0, 1] = IGNORED
    np.testing.assert_array_equal(panel_of(frame, column=1, row=1), enlarged(colours))


def test_logits_are_enlarged_smoothly_where_masks_are_finer_than_the_canvas(
    make_segmentation: MakeRollout,
) -> None:
    rollout = make_segmentation(label_size_px=128)
    true = corner_classes(128)
    decoded = np.full((GRID, GRID), 7, dtype=np.uint8)
    decoded[5, 2] = 2
    episode = believe(rollout.start([black_scene(128, mask=true)]), decoded, rollout)
    frame = render_episode(episode, rollout=rollout)
    diamond = (panel_of(frame, column=0, row=1) == COLOURS[2]).all(axis=-1)
    middle = np.argwhere(diamond).mean(axis=0)
    assert np.abs(middle - ((5.5 * CELL_PX - 0.5), (2.5 * CELL_PX - 0.5))).max() < 1e-6
    corner = 5 * CELL_PX, 2 * CELL_PX
    assert not diamond[corner]  # a square if it were enlarged after the choice
    np.testing.assert_array_equal(
        panel_of(frame, column=1, row=1), COLOURS[true].repeat(2, axis=0).repeat(2, axis=1)
    )


def test_the_entropy_is_bright_where_the_belief_is_unsure(make_segmentation: MakeRollout) -> None:
    rollout = make_segmentation()
    scene = black_scene(GRID, mask=corner_classes(GRID))
    sure = believe(rollout.start([scene]), corner_classes(GRID), rollout)
    part = sure.belief.clone()
    part[:, :, 1, 6] = 0
    beliefs = (sure.belief, torch.zeros_like(part), part)
    maps = [
        panel_of(render_episode(replace(sure, belief=belief), rollout=rollout), column=3)
        for belief in beliefs
    ]
    dark, bright = heat(np.array([0.0, 1.0]))
    assert dark.max() < 10 and bright.min() > 180
    assert (maps[0] == dark).all()
    assert (maps[1] == bright).all()
    unsure = np.argwhere((maps[2] == bright).all(axis=-1))
    assert unsure.min(axis=0).tolist() == [1 * CELL_PX, 6 * CELL_PX]
    assert unsure.max(axis=0).tolist() == [2 * CELL_PX - 1, 7 * CELL_PX - 1]


def test_the_legend_names_the_largest_classes_and_their_shares(
    make_segmentation: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_segmentation(budget=4)
    decoded, true = corner_classes(GRID), corner_classes(GRID)  # 7: 36, 2: 20 to 16, 5: 8 cells
    true[0] = IGNORE
    episode = believe(rollout.start([black_scene(GRID, mask=true)]), decoded, rollout)
    episode = replace(episode, looks=torch.tensor([1]))
    with texts_drawn(monkeypatch) as texts:
        frame = render_episode(episode, rollout=rollout)
    names = [MASK_CLASS_NAMES[i] for i in (7, 2, 5)]
    assert [t for t in texts if t in (*MASK_CLASS_NAMES, "no class")] == [*names, "no class"]
    assert "1 of 4 glimpses chosen" in texts

    swatches = panel_of(frame, column=2, row=1)
    shares = [panel_of(frame, column=3, row=1)[:, place] for place in (slice(120), slice(136, 256))]
    colours = [*COLOURS[[7, 2, 5]], np.array(IGNORED)]
    for i, (value, colour) in enumerate(zip((7, 2, 5, IGNORE), colours, strict=True)):
        assert (swatches[i * 36 : i * 36 + 27, :27] == colour).all()
        for bars, mask in zip(shares, (decoded, true), strict=True):
            bar, length = bars[i * 36 + 19 : i * 36 + 27], round((mask == value).mean() * 120)
            assert (bar[:, :length] == colour).all()
            assert (bar[:, length:] == drawing.EMPTY).all()
    assert (swatches[-8:, :64] == drawing.GLIMPSE).all()
    assert (swatches[-8:, 64:] == drawing.EMPTY).all()


def test_captions_say_how_good_and_how_sure_the_belief_is(
    make_segmentation: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_segmentation()
    true, decoded = corner_classes(GRID), corner_classes(GRID)
    true[0, 0] = IGNORE
    decoded[:, 4:] = 7
    right = (decoded == true).sum() / 63
    episode = believe(rollout.start([black_scene(GRID, mask=true)]), decoded, rollout)
    episode = replace(episode, belief=torch.zeros_like(episode.belief))
    with texts_drawn(monkeypatch) as texts:
        render_episode(episode, rollout=rollout)
    iou = float(episode.potentials["mean_iou"])
    assert f"decoded: {right:.0%} right, mIoU {iou:.2f}" in texts
    assert "entropy: mean 3.85 of 3.85 nats" in texts  # log 47


@pytest.mark.parametrize(("num_classes", "apart"), [(47, 0.09), (150, 0.05)])
def test_class_colours_are_far_apart(num_classes: int, apart: float) -> None:
    colours = class_colours(num_classes)
    assert colours.shape == (num_classes, 3) and colours.dtype == np.uint8
    lab = oklab(np.concatenate((colours, [IGNORED])))
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(len(lab))
    assert distances.min() > apart
    np.testing.assert_array_equal(colours[:10], class_colours(10))


def test_heat_grows_lighter_evenly() -> None:
    lightness = oklab(heat(np.linspace(0, 1, 101)))[:, 0]
    assert (np.diff(lightness) > 0).all()
    assert heat(np.zeros((2, 5))).shape == (2, 5, 3)


def test_a_stopped_episode_says_so(
    make_rollout: MakeRollout, make_segmentation: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in (make_rollout, make_segmentation):
        rollout = make(budget=4)
        episode = rollout.start([black_scene(GRID, mask=corner_classes(GRID))])
        with texts_drawn(monkeypatch) as texts:
            frame = render_episode(episode, rollout=rollout)
            episode = rollout.stop(episode, torch.tensor([True]))
            assert render_episode(episode, rollout=rollout).shape == frame.shape
        said = [text for text in texts if "glimpses chosen" in text]
        assert said == ["0 of 4 glimpses chosen", "0 of 4 glimpses chosen, stopped"]
