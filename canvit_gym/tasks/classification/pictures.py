"""A distribution over classes as bars, and in words."""

from __future__ import annotations

from PIL import ImageDraw
from torch import Tensor

from canvit_gym.drawing import (
    INK,
    MARKED,
    OTHER,
    PANEL_PX,
    ROW_PX,
    ROWS,
    Panel,
    blank_panel,
    draw_bar,
    font,
    shorten,
)
from canvit_gym.tasks.base import Description, Line


def belief_panel(log_probs: Tensor, *, label: int, class_names: tuple[str, ...]) -> Panel:
    """Bars of the most probable classes, float32 [classes], the label's among them."""
    image = blank_panel()
    draw = ImageDraw.Draw(image)
    probabilities = log_probs.exp().cpu()
    for i, class_id in enumerate(_shown(probabilities, label=label)):
        probability, is_label = float(probabilities[class_id]), class_id == label
        colour, top = MARKED if is_label else OTHER, i * ROW_PX
        figure = f"{probability:.0%}"
        text = f"{class_names[class_id]} (label)" if is_label else class_names[class_id]
        room = PANEL_PX - 12 - font(14).getlength(figure)
        ink = MARKED if is_label else INK
        draw.text((0, top), shorten(text, room_px=room), ink, font(14))
        draw.text((PANEL_PX, top), figure, ink, font(14), anchor="ra")
        draw_bar(draw, top=top + 19, share=probability, colour=colour)
    return Panel(caption="belief", image=image, shows_truth=True, has_footer=True)


def describe_belief(
    log_probs: Tensor, *, label: int | None, class_names: tuple[str, ...]
) -> Description:
    """log_probs: float32 [classes]. label: None where it is not to be known."""
    probabilities = log_probs.exp().cpu()
    shown = _shown(probabilities, label=label)
    first = int(probabilities.argmax())
    answer = f"{class_names[first]}, {float(probabilities[first]):.0%}"
    verdict = f"CanViT says {answer}"
    if label is not None:
        verdict += ": right" if first == label else f": wrong, it is {class_names[label]}"
    return Description(
        verdict=f"{verdict}.",
        answer=answer,
        is_right=None if label is None else first == label,
        head=("belief", ""),
        lines=tuple(
            Line(
                name=class_names[i],
                numbers=(float(probabilities[i]),),
                bar=float(probabilities[i]),
                marked=i == label,
            )
            for i in shown
        ),
        percent=True,
    )


def _shown(probabilities: Tensor, *, label: int | None) -> list[int]:
    """The most probable classes, the last of them replaced by the label where it is not among
    them."""
    shown: list[int] = probabilities.argsort(descending=True)[:ROWS].tolist()
    if label is not None and label not in shown:
        shown[-1] = label
    return shown
