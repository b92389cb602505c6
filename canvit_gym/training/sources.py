"""Scenes to train on and to validate on, by name."""

from __future__ import annotations

from pathlib import Path

from canvit_gym.scenes import layouts
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.emoji import EMOJI, EmojiScenes
from canvit_gym.scenes.stored import Split, StoredScenes


def open_scenes(name: str | Path, *, size_px: int) -> Scenes:
    """Scenes that backbones train on, by name; ValueError or OSError where there are none."""
    if name != EMOJI:
        return open_pictures(name, size_px=size_px)
    if size_px != EmojiScenes.size_px:
        raise ValueError(
            f"picture_size_px is {size_px}, but generated scenes have {EmojiScenes.size_px} px; "
            "give that."
        )
    return EmojiScenes(split="backbone")


def open_pictures(root: str | Path, *, size_px: int) -> StoredScenes:
    """The pictures of a folder in any of the usual layouts: the training pictures where it has such
    a part, else all; ValueError or OSError where there are none."""
    root = Path(root).expanduser()
    split: Split = "train" if layouts.recognise(root).parts else "all"
    return layouts.open_scenes(root, size_px=size_px, split=split)


def open_judged(name: str | Path, *, size_px: int) -> Scenes:
    """Scenes to validate on, by name: the validation pictures where a folder has such a part."""
    if name == EMOJI:
        return open_scenes(name, size_px=size_px)
    return layouts.open_scenes(name, size_px=size_px)
