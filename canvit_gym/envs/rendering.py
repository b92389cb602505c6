"""One picture of an episode: the scene with its glimpses, the last glimpse, the canvas, and the
task's own panels of the belief.

Coordinates are (row, col) as everywhere; only the calls to Pillow, which wants (x, y), turn them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from canvit_gym.drawing import (
    BAR_PX,
    EARLIER,
    EMPTY,
    FAINT,
    GAP_PX,
    GLIMPSE,
    INK,
    PANEL_PX,
    PAPER,
    Panel,
    cells_panel,
    draw_bar,
    font,
)
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.geometry import Viewpoint, pixel_boxes
from canvit_gym.model.recurrent import State
from canvit_gym.preprocess import denormalize

_MARGIN, _CAPTION = 16, 24
_COLUMNS = 4
_ROOM = _COLUMNS * PANEL_PX + (_COLUMNS - 1) * GAP_PX


def render_episode(episode_of_one: Episode, *, rollout: Rollout) -> np.ndarray:
    """uint8 [H, W, 3], of the same even size whatever the scene, the model and the moment: 1104
    wide, and 312 high where the task has one panel, 608 where it has up to five more."""
    panels = looking_panels(episode_of_one, rollout=rollout)
    panels += rollout.task.panels(episode_of_one)
    rows = _rows(panels)
    step = _CAPTION + PANEL_PX + GAP_PX
    size = (2 * _MARGIN + _ROOM, 2 * _MARGIN + len(rows) * step - GAP_PX)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for i, row in enumerate(rows):
        top, left = _MARGIN + i * step, _MARGIN
        for panel in row:
            if panel.has_footer:
                _budget(ImageDraw.Draw(panel.image), episode_of_one, rollout)
            draw.text((left, top - 2), panel.caption, fill=FAINT, font=font(15))
            page.paste(panel.image, (left, top + _CAPTION))
            left += panel.image.width + GAP_PX
    return np.array(page)


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """The panels in rows, each as full as it can be."""
    rows: list[list[Panel]] = [[]]
    left = 0
    for panel in panels:
        if rows[-1] and left + panel.image.width > _ROOM:
            rows.append([])
            left = 0
        rows[-1].append(panel)
        left += panel.image.width + GAP_PX
    return rows


@dataclass(frozen=True, kw_only=True)
class CanvasColours:
    """Colours of canvas cells, the same ones for all frames of an episode.

    mean: float64 [C]. components: float64 [C, 3], for red, green and blue. low, high: float64 [3],
    the values that become 0 and 255; what lies beyond them is cut off.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, tokens: Tensor) -> CanvasColours:
        """The three principal components of tokens [N, C], each pointing where its largest
        coefficient is positive, with a quarter of their range to spare on both sides."""
        tokens = tokens.double()
        mean = tokens.mean(dim=0)
        centred = tokens - mean
        components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
        largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
        components = components * largest.sign()
        values = centred @ components
        low, high = values.amin(dim=0), values.amax(dim=0)
        # Where all cells are equal, rounding errors are nothing to show.
        spare = torch.where(high - low > 1e-6, (high - low) / 4, 1.0)
        return cls(mean=mean, components=components, low=low - spare, high=high + spare)

    def __call__(self, tokens: Tensor) -> np.ndarray:
        """The colours of tokens [N, C]: uint8 [N, 3]."""
        values = (tokens.double() - self.mean) @ self.components
        shares = ((values - self.low) / (self.high - self.low)).clamp(0, 1)
        return (shares * 255).round().byte().cpu().numpy()


def canvas_colours(episode_of_one: Episode, *, rollout: Rollout) -> CanvasColours:
    """The colours of an episode: from the canvas after its first glimpse, so that no later frame
    changes them. Before that glimpse all cells are alike, and grey."""
    return CanvasColours.fit(_canvas_tokens(rollout.first_state(episode_of_one), rollout))


def _canvas_tokens(state: State, rollout: Rollout) -> Tensor:
    """The feature map of one scene: float32 [G^2, C]."""
    return rollout.task.model.feature_map(state)[0].float()


def looking_panels(episode: Episode, *, rollout: Rollout) -> list[Panel]:
    """Pictures of what was looked at in one scene, what was seen there, and what is remembered."""
    viewpoints = _viewpoints(episode)
    t = viewpoints.batch_size - 1
    seen, boxes = "glimpse", "The scene"
    if t >= 0:
        seen = f"glimpse {t}, scale {float(viewpoints.scales[-1]):.2f}"
        boxes += " with the box" + (" of glimpse 0" if t == 0 else f"es of glimpses 0 to {t}")
    return [
        Panel(caption="scene", image=_scene(episode, viewpoints), title="scene", alt=boxes),
        Panel(
            caption=seen,
            image=_glimpse(episode, viewpoints, rollout),
            title="glimpse",
            alt=f"What CanViT sees at glimpse {t}" if t >= 0 else "No glimpse yet",
        ),
        Panel(
            caption="canvas (PCA)",
            image=_canvas(episode, viewpoints, rollout),
            title="canvas (PCA)",
            alt="The canvas as colours, three principal components of the first one,",
        ),
    ]


def _viewpoints(episode: Episode) -> Viewpoint:
    """All viewpoints of the episode's glimpses so far, as a batch."""
    taken = episode.history[0, : int(episode.glimpses[0])].cpu()
    return Viewpoint(centers=taken[:, :2], scales=taken[:, 2])


def _scene(episode: Episode, viewpoints: Viewpoint) -> Image.Image:
    picture = Image.fromarray(episode.scenes[0].picture)
    panel = picture.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)
    last = viewpoints.batch_size - 1
    for i in range(viewpoints.batch_size):
        _outline(panel, viewpoints[i : i + 1], number=i, current=i == last)
    return panel


def _outline(panel: Image.Image, viewpoint: Viewpoint, *, number: int, current: bool) -> None:
    """Draw a crop's edge and number; earlier crops are thin and faint."""
    left, top, right, bottom = _edges(viewpoint)
    tag_fill = GLIMPSE if current else EARLIER
    if current:
        _bold(ImageDraw.Draw(panel), viewpoint)
    else:
        faint = panel.copy()
        ImageDraw.Draw(faint).rectangle((left, top, right, bottom), outline=EARLIER, width=2)
        panel.paste(Image.blend(panel, faint, 0.7))
    draw, text, letters = ImageDraw.Draw(panel), str(number), font(13)
    tag = (left, top, left + 8 + letters.getlength(text), top + 18)
    draw.rectangle(tag, fill=tag_fill, outline=INK if current else None)
    draw.text(((tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2), text, INK, letters, anchor="mm")


def _bold(draw: ImageDraw.ImageDraw, viewpoint: Viewpoint) -> None:
    """The current crop's edge, dark on both sides so that it shows on any ground."""
    left, top, right, bottom = _edges(viewpoint)
    draw.rectangle((left, top, right, bottom), outline=INK, width=5)
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=GLIMPSE, width=3)


def _edges(viewpoint: Viewpoint) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) pixels of a panel that the crop just covers, in Pillow's order."""
    box = pixel_boxes(viewpoint, scene_size_px=PANEL_PX)[0].round().int()
    top, left, bottom, right = box.tolist()
    return left, top, right - 1, bottom - 1


def _glimpse(episode: Episode, viewpoints: Viewpoint, rollout: Rollout) -> Image.Image:
    if not viewpoints.batch_size:
        panel = Image.new("RGB", (PANEL_PX, PANEL_PX), EMPTY)
        middle = (PANEL_PX / 2, PANEL_PX / 2)
        ImageDraw.Draw(panel).text(middle, "none yet", FAINT, font(15), anchor="mm")
        return panel
    glimpse = denormalize(rollout.sample(episode, viewpoints[-1:].to(episode.device)))[0]
    return cells_panel((glimpse * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _canvas(episode: Episode, viewpoints: Viewpoint, rollout: Rollout) -> Image.Image:
    size = rollout.glimpse.canvas_grid_size
    colours = canvas_colours(episode, rollout=rollout)(_canvas_tokens(episode.state, rollout))
    panel = cells_panel(colours.reshape(size, size, 3))
    if viewpoints.batch_size:
        _bold(ImageDraw.Draw(panel), viewpoints[-1:])
    return panel


def _budget(draw: ImageDraw.ImageDraw, episode: Episode, rollout: Rollout) -> None:
    """How far the episode is, along the lower edge of a panel."""
    looks, budget = int(episode.looks[0]), rollout.budget
    text = f"{looks} of {budget} glimpses chosen" + (", stopped" if episode.stopped[0] else "")
    draw.text((0, PANEL_PX - 30), text, FAINT, font(14))
    draw_bar(draw, top=PANEL_PX - BAR_PX, share=looks / budget, colour=GLIMPSE)
