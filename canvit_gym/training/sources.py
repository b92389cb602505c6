"""Scenes to train on and to validate on, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from canvit_gym.scenes import layouts
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.album import ALBUM, AlbumScenes
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.emoji import EMOJI, EmojiScenes
from canvit_gym.scenes.stored import Split, StoredScenes


def open_scenes(name: str | Path, *, size_px: int) -> Scenes:
    """Scenes that backbones train on, by name; ValueError or OSError where there are none."""
    if name != EMOJI:
        return open_pictures(name, size_px=size_px)
    _require_emoji_size(size_px)
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


def open_dense(name: str | Path, *, size_px: int) -> Scenes:
    """Scenes that reconstruction is measured on, by name: the validation pictures of ADE20K, centre
    squares as published; of other folders as `open_judged`; generated ones no backbone has seen."""
    if name == EMOJI:
        _require_emoji_size(size_px)
        return EmojiScenes(split="test")
    if name == ALBUM:
        return AlbumScenes(size_px=size_px)
    if is_ade20k(name):
        return ADE20KScenes(name, split="test", size_px=size_px, fit="crop")
    return open_judged(name, size_px=size_px)


def is_ade20k(name: str | Path) -> bool:
    """Whether a folder is laid out as ADEChallengeData2016."""
    return (Path(name).expanduser() / "images" / "validation").is_dir()


def open_labelled(name: str | Path, *, size_px: int, imagenet: bool) -> Scenes:
    """Labelled scenes to judge classifiers on, by name: a folder's validation pictures where it has
    such a part, else all. imagenet: whether labels must be of ImageNet-1k.

    Raises ValueError or OSError where there are none.
    """
    if name == ALBUM:
        return AlbumScenes(size_px=size_px)
    return layouts.open_scenes(
        name, size_px=size_px, classes="imagenet" if imagenet else "any", labels="required"
    )


def evenly_spaced(available: int, limit: int | None) -> Sequence[int]:
    """Indices of at most `limit` of the scenes; None takes all."""
    count = available if limit is None else min(limit, available)
    return [i * available // count for i in range(count)]


def _require_emoji_size(size_px: int) -> None:
    if size_px != EmojiScenes.size_px:
        raise ValueError(
            f"picture_size_px is {size_px}, but generated scenes have {EmojiScenes.size_px} px; "
            "give that."
        )
