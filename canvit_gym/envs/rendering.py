"""One picture of an episode: the scene with its glimpses, the last glimpse, the canvas, the belief.

The belief is bars where it is about the whole scene. Where it is about every canvas cell it is a
second row: the decoded mask, the true one and a legend of both, with the entropy above.

Coordinates are (row, col) as everywhere; only the calls to Pillow, which wants (x, y), turn them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from canvit_gym.envs.palette import IGNORED, class_colours, heat
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.geometry import Viewpoint, pixel_boxes
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.preprocess import denormalize
from canvit_gym.scenes.base import IGNORE

PANEL_PX = 256
_MARGIN, _GAP, _CAPTION = 16, 16, 24
_COLUMNS = 4
_WIDTH = 2 * _MARGIN + _COLUMNS * PANEL_PX + (_COLUMNS - 1) * _GAP
_SHARES_PX = (PANEL_PX - _GAP) // 2

_ROWS = 6
"""Classes shown: the most probable ones, the last of them replaced by the label where it is not
among them; or those that fill most of the two masks."""
_ROW_PX, _BAR_PX = 36, 8

_PAPER, _EMPTY, _INK, _FAINT = (255, 255, 255), (238, 240, 243), (31, 35, 40), (110, 118, 129)
_GLIMPSE, _EARLIER, _LABEL, _OTHER = (255, 196, 0), (255, 228, 150), (26, 148, 84), (138, 155, 178)

Colour = tuple[int, int, int]


class Panel(NamedTuple):
    """A caption and what stands below it, PANEL_PX high."""

    caption: str
    image: Image.Image


def render_episode(episode_of_one: Episode, *, rollout: Rollout) -> np.ndarray:
    """uint8 [H, W, 3], of the same even size whatever the scene, the model and the moment: 312 x
    1104, or 608 x 1104 where the task decodes the canvas."""
    if rollout.task.decodes_canvas:
        rows = _segmentation_rows(episode_of_one, rollout)
    else:
        belief = Panel("belief", _belief(episode_of_one, rollout))
        rows = [[*looking_panels(episode_of_one, rollout=rollout), belief]]
    step = _CAPTION + PANEL_PX + _GAP
    page = Image.new("RGB", (_WIDTH, 2 * _MARGIN + len(rows) * step - _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    for i, panels in enumerate(rows):
        top, left = _MARGIN + i * step, _MARGIN
        for caption, panel in panels:
            draw.text((left, top - 2), caption, fill=_FAINT, font=_font(15))
            page.paste(panel, (left, top + _CAPTION))
            left += panel.width + _GAP
    return np.array(page)


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


def _canvas_tokens(state: RecurrentState, rollout: Rollout) -> Tensor:
    """Canvas patches of one scene after a LayerNorm: float32 [G^2, C]."""
    patches = rollout.task.model.canvit.canvas_patches(state)[0].float()
    return F.layer_norm(patches, patches.shape[-1:])


def looking_panels(episode: Episode, *, rollout: Rollout) -> list[Panel]:
    """Pictures of what was looked at, what was seen there, and what is remembered."""
    viewpoints = _viewpoints(episode)
    seen = "glimpse"
    if count := viewpoints.batch_size:
        seen = f"glimpse {count - 1}, scale {float(viewpoints.scales[-1]):.2f}"
    return [
        Panel("scene", _scene(episode, viewpoints)),
        Panel(seen, _glimpse(episode, viewpoints, rollout)),
        Panel("canvas (PCA)", _canvas(episode, viewpoints, rollout)),
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
    size = rollout.glimpse.canvas_grid_size
    colours = canvas_colours(episode, rollout=rollout)(_canvas_tokens(episode.state, rollout))
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
    _budget(draw, episode, rollout)
    return panel


def _budget(draw: ImageDraw.ImageDraw, episode: Episode, rollout: Rollout) -> None:
    """How far the episode is, along the lower edge of a panel."""
    looks, budget = int(episode.looks[0]), rollout.budget
    text = f"{looks} of {budget} glimpses chosen" + (", stopped" if episode.stopped[0] else "")
    draw.text((0, PANEL_PX - 30), text, _FAINT, _font(14))
    _bar(draw, top=PANEL_PX - _BAR_PX, share=looks / budget, colour=_GLIMPSE)


def mask_panels(episode: Episode, *, rollout: Rollout) -> list[Panel]:
    """Pictures of where the segmentation is uncertain, of what is decoded, and of the truth; masks
    are shown as they are compared."""
    count = len(rollout.task.class_names)
    accuracy, iou = (float(episode.potentials[name]) for name in ("pixel_accuracy", "mean_iou"))
    entropy = rollout.task.entropy_map(episode.belief)[0].cpu().numpy()
    most = math.log(max(count, 2))
    return [
        Panel(f"entropy: mean {entropy.mean():.2f} of {most:.2f} nats", _heat_map(entropy / most)),
        Panel(f"decoded: {accuracy:.0%} right, mIoU {iou:.2f}", _mask(_decode(episode), count)),
        Panel("true mask", _mask(_true(episode), count)),
    ]


def _segmentation_rows(episode: Episode, rollout: Rollout) -> list[list[Panel]]:
    """The canvas that was decoded beside the truth, and what fills most of both."""
    num_classes = len(rollout.task.class_names)
    shares = np.stack([_areas(_decode(episode)), _areas(_true(episode))])
    total = shares.sum(axis=0)
    largest = [i for i in np.argsort(-total, kind="stable")[:_ROWS].tolist() if total[i]]
    entropy, decoded, true = mask_panels(episode, rollout=rollout)
    return [
        [*looking_panels(episode, rollout=rollout), entropy],
        [
            decoded,
            true,
            Panel("largest classes", _legend(largest, episode, rollout)),
            Panel("decoded", _shares(shares[0], largest, num_classes)),
            Panel("true", _shares(shares[1], largest, num_classes)),
        ],
    ]


def _true(episode: Episode) -> np.ndarray:
    """The true mask: uint8 [S, S]."""
    mask: np.ndarray = episode.targets[0].cpu().numpy()
    return mask


def _decode(episode: Episode) -> np.ndarray:
    """The most probable classes as they are judged: uint8, [G, G] where masks are compared on the
    canvas grid, else [PANEL_PX, PANEL_PX] from logits enlarged bilinearly."""
    logits = episode.belief
    if logits.shape[-1] != episode.targets.shape[-1]:
        logits = F.interpolate(logits, size=(PANEL_PX, PANEL_PX), mode="bilinear")
    return logits[0].argmax(dim=0).byte().cpu().numpy()


def _areas(classes: np.ndarray) -> np.ndarray:
    """Share of the picture that has each value: float64 [256]."""
    return np.bincount(classes.ravel(), minlength=256) / classes.size


def _heat_map(levels: np.ndarray) -> Image.Image:
    """Levels 0 .. 1 of the canvas cells, float [G, G], from dark to bright."""
    return _enlarge(heat(levels))


def _mask(classes: np.ndarray, num_classes: int) -> Image.Image:
    """Class ids or IGNORE, uint8 [S, S], in their colours."""
    return _enlarge(_mask_colours(num_classes)[classes])


def _mask_colours(num_classes: int) -> np.ndarray:
    """The colour of every value a mask may have: uint8 [256, 3]."""
    colours = np.full((256, 3), IGNORED, dtype=np.uint8)
    colours[:num_classes] = class_colours(num_classes)
    return colours


def _legend(class_ids: list[int], episode: Episode, rollout: Rollout) -> Image.Image:
    """Names beside their colours, and the budget below."""
    names = rollout.task.class_names
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX), _PAPER)
    draw, colours, side = ImageDraw.Draw(panel), _mask_colours(len(names)), _ROW_PX - 9
    for i, class_id in enumerate(class_ids):
        top = i * _ROW_PX
        colour = tuple(colours[class_id].tolist())
        draw.rectangle((0, top, side - 1, top + side - 1), fill=colour)
        name = "no class" if class_id == IGNORE else names[class_id]
        text = _shorten(name, PANEL_PX - side - 8)
        draw.text((side + 8, top + side / 2), text, _INK, _font(14), anchor="lm")
    _budget(draw, episode, rollout)
    return panel


def _shares(shares: np.ndarray, class_ids: list[int], num_classes: int) -> Image.Image:
    """How much of a mask the legend's classes fill, float64 [256], in the legend's rows."""
    panel = Image.new("RGB", (_SHARES_PX, PANEL_PX), _PAPER)
    draw, colours = ImageDraw.Draw(panel), _mask_colours(num_classes)
    for i, class_id in enumerate(class_ids):
        top, share = i * _ROW_PX, float(shares[class_id])
        figure = f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"
        draw.text((0, top), figure, _INK, _font(14))
        colour = tuple(colours[class_id].tolist())
        _bar(draw, top=top + 19, width=_SHARES_PX, share=share, colour=colour)
    return panel


def _bar(
    draw: ImageDraw.ImageDraw,
    *,
    top: int,
    width: int = PANEL_PX,
    share: float,
    colour: Colour,
) -> None:
    draw.rectangle((0, top, width - 1, top + _BAR_PX - 1), fill=_EMPTY)
    if (length := round(share * width)) > 0:
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
