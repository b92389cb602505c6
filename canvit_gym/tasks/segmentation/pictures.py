"""Masks as pictures, and what fills most of them in numbers."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from canvit_gym.drawing import (
    GAP_PX,
    INK,
    PANEL_PX,
    ROW_PX,
    ROWS,
    Colour,
    Panel,
    blank_panel,
    cells_panel,
    draw_bar,
    font,
    shorten,
)
from canvit_gym.palette import IGNORED, class_colours, heat
from canvit_gym.scenes.base import IGNORE
from canvit_gym.tasks.base import Description, Line

_SHARES_PX = (PANEL_PX - GAP_PX) // 2


def mask_panels(
    logits: Tensor,
    mask: Tensor,
    *,
    entropy: Tensor,
    highest: float,
    accuracy: float,
    iou: float,
    class_names: tuple[str, ...],
) -> list[Panel]:
    """Pictures of where the segmentation is uncertain, of what is decoded, of the truth, and of
    what fills most of both.

    logits: float32 [classes, G, G]. mask: uint8 [S, S], shown as it is compared. entropy: float32
    [G, G], nats, of `highest` at most.
    """
    count, nats = len(class_names), entropy.cpu().numpy()
    # As they are judged: on the canvas grid where masks are compared there, else enlarged.
    size = None if logits.shape[-1] == mask.shape[-1] else (PANEL_PX, PANEL_PX)
    decoded, true = decode(logits, size=size), mask.cpu().numpy()
    shares = np.stack([_areas(decoded), _areas(true)])
    largest = _largest(shares.sum(axis=0))
    return [
        Panel(
            caption=f"entropy: mean {nats.mean():.2f} of {highest:.2f} nats",
            image=cells_panel(heat(nats / highest)),
            title="entropy",
            alt="Where the segmentation is uncertain, bright for more,",
        ),
        Panel(
            caption=f"decoded: {accuracy:.0%} right, mIoU {iou:.2f}",
            image=cells_panel(_mask_colours(count)[decoded]),
            title="decoded mask",
            alt="The segmentation decoded",
        ),
        Panel(
            caption="true mask",
            image=cells_panel(_mask_colours(count)[true]),
            title="true mask",
            alt="The true segmentation",
            shows_truth=True,
        ),
        Panel(
            caption="largest classes",
            image=_legend(largest, class_names),
            shows_truth=True,
            has_footer=True,
        ),
        Panel(caption="decoded", image=_shares(shares[0], largest, count)),
        Panel(caption="true", image=_shares(shares[1], largest, count), shows_truth=True),
    ]


def describe_masks(
    logits: Tensor,
    mask: Tensor,
    *,
    with_truth: bool,
    accuracy: float,
    iou: float,
    class_names: tuple[str, ...],
) -> Description:
    """logits: float32 [classes, G, G]. mask: uint8 [S, S]."""
    true = mask.cpu().numpy()
    shares = [_areas(decode(logits, size=true.shape))]
    if with_truth:
        shares.append(_areas(true))
    lines = tuple(
        Line(
            name=_name(i, class_names),
            numbers=tuple(float(share[i]) for share in shares),
            colour=_colour(i, len(class_names)),
        )
        for i in _largest(np.sum(shares, axis=0))
    )
    verdict = f"{accuracy:.0%} of the pixels are right, mean IoU {iou:.2f}."
    if not with_truth:
        most = lines[0]
        verdict = f"CanViT sees {most.name} in {most.numbers[0]:.0%} of the scene."
    return Description(
        verdict=verdict,
        head=("largest classes", "decoded", *(("true",) if with_truth else ())),
        lines=lines,
        percent=True,
    )


def decode(logits: Tensor, *, size: tuple[int, ...] | None) -> np.ndarray:
    """The most probable classes: uint8 [H, W], of logits float32 [classes, G, G] enlarged
    bilinearly where another size is asked for."""
    batch = logits[None]
    if size is not None and tuple(logits.shape[1:]) != tuple(size):
        batch = F.interpolate(batch, size=tuple(size), mode="bilinear")
    return batch[0].argmax(dim=0).byte().cpu().numpy()


def _largest(areas: np.ndarray) -> list[int]:
    """Values of masks that fill most, by areas float64 [256]."""
    return [i for i in np.argsort(-areas, kind="stable")[:ROWS].tolist() if areas[i]]


def _areas(classes: np.ndarray) -> np.ndarray:
    """Share of the picture that has each value: float64 [256]."""
    return np.bincount(classes.ravel(), minlength=256) / classes.size


def _name(class_id: int, class_names: tuple[str, ...]) -> str:
    return "no class" if class_id == IGNORE else class_names[class_id]


def _mask_colours(num_classes: int) -> np.ndarray:
    """The colour of every value a mask may have: uint8 [256, 3]."""
    colours = np.full((256, 3), IGNORED, dtype=np.uint8)
    colours[:num_classes] = class_colours(num_classes)
    return colours


def _colour(class_id: int, num_classes: int) -> Colour:
    red, green, blue = _mask_colours(num_classes)[class_id].tolist()
    return red, green, blue


def _legend(class_ids: list[int], class_names: tuple[str, ...]) -> Image.Image:
    """Names beside their colours."""
    image = blank_panel()
    draw, side = ImageDraw.Draw(image), ROW_PX - 9
    for i, class_id in enumerate(class_ids):
        top = i * ROW_PX
        fill = _colour(class_id, len(class_names))
        draw.rectangle((0, top, side - 1, top + side - 1), fill=fill)
        text = shorten(_name(class_id, class_names), room_px=PANEL_PX - side - 8)
        draw.text((side + 8, top + side / 2), text, INK, font(14), anchor="lm")
    return image


def _shares(shares: np.ndarray, class_ids: list[int], num_classes: int) -> Image.Image:
    """How much of a mask the legend's classes fill, float64 [256], in the legend's rows."""
    image = blank_panel(width_px=_SHARES_PX)
    draw = ImageDraw.Draw(image)
    for i, class_id in enumerate(class_ids):
        top, share = i * ROW_PX, float(shares[class_id])
        figure = f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"
        draw.text((0, top), figure, INK, font(14))
        colour = _colour(class_id, num_classes)
        draw_bar(draw, top=top + 19, width_px=_SHARES_PX, share=share, colour=colour)
    return image
