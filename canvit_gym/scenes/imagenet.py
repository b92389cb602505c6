"""The 1000 classes of ImageNet-1k: their wnids and names in id order."""

import re
from importlib.resources import files


def _read_table() -> list[tuple[str, str]]:
    text = files("canvit_gym").joinpath("assets", "imagenet_classes.txt").read_text("utf-8")
    rows = (line for line in text.splitlines() if not line.startswith("#"))
    return [(wnid, name) for wnid, _, name in (row.partition(" ") for row in rows)]


_TABLE = _read_table()

WNIDS: tuple[str, ...] = tuple(wnid for wnid, _ in _TABLE)
"""Sorted: the ImageNet-1k id of a class is the position of its wnid."""

CLASS_NAMES: tuple[str, ...] = tuple(name for _, name in _TABLE)

LABEL_OF_WNID: dict[str, int] = {wnid: label for label, wnid in enumerate(WNIDS)}

_OFFICIAL = re.compile(r"ILSVRC2012_val_[0-9]{8}")


def picture_name(stem: str, *, label: int) -> str | None:
    """The name of an official validation picture below its class folder, such as
    "n01751748/ILSVRC2012_val_00000001.JPEG", so that it is the same, and in the same split, however
    the pictures are stored; None for others, and for those without a label."""
    is_official = label >= 0 and _OFFICIAL.fullmatch(stem)
    return f"{WNIDS[label]}/{stem}.JPEG" if is_official else None
