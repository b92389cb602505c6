"""The 1000 classes of ImageNet-1k: their wnids and names in id order."""

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
