"""One picture of an episode: the scene with its glimpses, the last glimpse, the canvas, the belief.

Coordinates are (row, col) as everywhere; only the calls to Pillow, which wants (x, y), turn them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.geometry import Viewpoint, pixel_boxes
from canvit_gym.preprocess import denormalize

PANEL_PX = 256
_MARGIN, _GAP, _CAPTION = 16, 16, 24
_PANELS = 4
_WIDTH = 2 * _MARGIN + _PANELS * PANEL_PX + (_PANELS - 1) * _GAP
_HEIGHT = 2 * _MARGIN + _CAPTION + PANEL_PX

_ROWS = 6
"""Classes shown: the most probable ones, the last of them replaced by the label where it is not
among them."""
_ROW_PX, _BAR_PX = 36, 8

_PAPER, _EMPTY, _INK, _FAINT = (255, 255, 255), (238, 240, 243), (31, 35, 40), (110, 118, 129)
_GLIMPSE, _EARLIER, _LABEL, _OTHER = (255, 196, 0), (255, 228, 150), (26, 148, 84), (138, 155, 178)


def render_episode(episode_of_one: Episode, *, rollout: Rollout) -> np.ndarray:
    """uint8 [H, W, 3], of the same even size whatever the scene, the model and the moment."""
    page = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    count = int(episode_of_one.glimpses[0])
    viewpoints = _viewpoints(episode_of_one)
    seen = "glimpse"
    if count:
        seen = f"glimpse {count - 1}, scale {float(viewpoints.scales[-1]):.2f}"
    panels = (
        ("scene", _scene(episode_of_one, viewpoints)),
        (seen, _glimpse(episode_of_one, viewpoints, rollout)),
        ("canvas (PCA)", _canvas(episode_of_one, viewpoints, rollout)),
        ("belief", _belief(episode_of_one, rollout)),
    )
    draw = ImageDraw.Draw(page)
    for i, (caption, panel) in enumerate(panels):
        left = _MARGIN + i * (PANEL_PX + _GAP)
        draw.text((left, _MARGIN - 2), caption, fill=_FAINT, font=_font(15))
        page.paste(panel, (left, _MARGIN + _CAPTION))
    return np.array(page)


def pca_rgb(tokens: Tensor) -> np.ndarray:
    """Colours of N tokens [N, C] along their three principal components: uint8 [N, 3].

    Each component points where its largest coefficient is positive, and is spread over 0 .. 255.
    """
    centred = (tokens - tokens.mean(dim=0)).double()
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)  # [C, 3]
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    values = centred @ (components * largest.sign())
    low, high = values.amin(dim=0), values.amax(dim=0)
    spread = high - low
    # Before the first glimpse all cells are equal, and rounding errors are nothing to show.
    scaled = torch.where(spread > 1e-6, (values - low) / spread.clamp(min=1e-6), 0.5)
    return (scaled * 255).round().byte().cpu().numpy()


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
    tag_fill = _GLIMPSE if current else _EARLIER
    if current:
        _bold(ImageDraw.Draw(panel), viewpoint)
    else:
        faint = panel.copy()
        ImageDraw.Draw(faint).rectangle((left, top, right, bottom), outline=_EARLIER, width=2)
        panel.paste(Image.blend(panel, faint, 0.7))
    draw, text, font = ImageDraw.Draw(panel), str(number), _font(13)
    tag = (left, top, left + 8 + font.getlength(text), top + 18)
    draw.rectangle(tag, fill=tag_fill, outline=_INK if current else None)
    draw.text(((tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2), text, _INK, font, anchor="mm")


def _bold(draw: ImageDraw.ImageDraw, viewpoint: Viewpoint) -> None:
    """The current crop's edge, dark on both sides so that it shows on any ground."""
    left, top, right, bottom = _edges(viewpoint)
    draw.rectangle((left, top, right, bottom), outline=_INK, width=5)
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=_GLIMPSE, width=3)


def _edges(viewpoint: Viewpoint) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) pixels of a panel that the crop just covers, in Pillow's order."""
    box = pixel_boxes(viewpoint, scene_size_px=PANEL_PX)[0].round().int()
    top, left, bottom, right = box.tolist()
    return left, top, right - 1, bottom - 1


def _glimpse(episode: Episode, viewpoints: Viewpoint, rollout: Rollout) -> Image.Image:
    if not viewpoints.batch_size:
        panel = Image.new("RGB", (PANEL_PX, PANEL_PX), _EMPTY)
        middle = (PANEL_PX / 2, PANEL_PX / 2)
        ImageDraw.Draw(panel).text(middle, "none yet", _FAINT, _font(15), anchor="mm")
        return panel
    glimpse = denormalize(rollout.sample(episode, viewpoints[-1:].to(episode.device)))[0]
    return _enlarge((glimpse * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _canvas(episode: Episode, viewpoints: Viewpoint, rollout: Rollout) -> Image.Image:
    patches = rollout.task.model.canvit.canvas_patches(episode.state)[0].float()
    size = rollout.glimpse.canvas_grid_size
    colours = pca_rgb(F.layer_norm(patches, patches.shape[-1:]))
    panel = _enlarge(colours.reshape(size, size, 3))
    if viewpoints.batch_size:
        _bold(ImageDraw.Draw(panel), viewpoints[-1:])
    return panel


def _enlarge(picture: np.ndarray) -> Image.Image:
    """Without smoothing: these pixels and cells are what the model works with."""
    return Image.fromarray(picture).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)


def _belief(episode: Episode, rollout: Rollout) -> Image.Image:
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX), _PAPER)
    draw = ImageDraw.Draw(panel)
    probabilities = episode.belief[0].exp().cpu()
    label = int(episode.targets[0])
    shown = probabilities.argsort(descending=True)[:_ROWS].tolist()
    if label not in shown:
        shown[-1] = label
    for i, class_id in enumerate(shown):
        name, probability = rollout.task.class_names[class_id], float(probabilities[class_id])
        is_label = class_id == label
        colour, top = _LABEL if is_label else _OTHER, i * _ROW_PX
        figure = f"{probability:.0%}"
        text = f"{name} (label)" if is_label else name
        room = PANEL_PX - 12 - _font(14).getlength(figure)
        ink = _LABEL if is_label else _INK
        draw.text((0, top), _shorten(text, room), ink, _font(14))
        draw.text((PANEL_PX, top), figure, ink, _font(14), anchor="ra")
        _bar(draw, top=top + 19, share=probability, colour=colour)
    looks, budget = int(episode.looks[0]), rollout.budget
    draw.text((0, PANEL_PX - 30), f"{looks} of {budget} glimpses chosen", _FAINT, _font(14))
    _bar(draw, top=PANEL_PX - _BAR_PX, share=looks / budget, colour=_GLIMPSE)
    return panel


def _bar(
    draw: ImageDraw.ImageDraw, *, top: float, share: float, colour: tuple[int, int, int]
) -> None:
    draw.rectangle((0, top, PANEL_PX - 1, top + _BAR_PX - 1), fill=_EMPTY)
    if (length := round(share * PANEL_PX)) > 0:
        draw.rectangle((0, top, length - 1, top + _BAR_PX - 1), fill=colour)


def _shorten(text: str, room: float) -> str:
    """The text, cut to fit so many pixels."""
    if _font(14).getlength(text) <= room:
        return text
    while text and _font(14).getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)
