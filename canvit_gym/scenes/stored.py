"""What every source of stored pictures shares: how a damaged one is replaced, and which split a
picture belongs to."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import index as as_int
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from canvit_gym.preprocess import (
    PictureStorageError,
    UnreadablePictureError,
    printable,
    require_size_px,
    to_rgb,
)
from canvit_gym.scenes.base import Scene

Crop = Callable[[Image.Image], np.ndarray]
"""What makes a scene's picture, uint8 [size_px, size_px, 3], of a whole RGB picture."""

Split = Literal["all", "train", "test"]
Classes = Literal["any", "imagenet"]
"""Kinds of labels: of any classes, or of those of ImageNet-1k only."""

Labels = Literal["any", "required"]
"""Whether pictures without a label are among the scenes, with label -1, or not."""

MAX_SUBSTITUTIONS = 10
"""One unreadable picture is an accident; so many in a row mean that the storage is gone."""

_PAUSE_S = 0.05  # before a picture that could not be used is read once more


class StoredScenes:
    """Scenes made from pictures that lie below `root`; sources say how with `_read`.

    Data damaged behind an intact header shows only when a scene is asked for: then a warning names
    the picture, once, and the next readable one stands in for it (under its own name and label), so
    that a long run goes on. Only a picture that two readings in a row call damaged is replaced.
    Where the storage itself fails (no such file, an I/O error, too many open files, no memory),
    PictureStorageError is raised and nothing is remembered: asked again, the same scene comes.

    layout: what the folder was taken for, in words; "" where that was not asked.
    """

    class_names: tuple[str, ...]
    mask_class_names: tuple[str, ...] = ()
    layout: str = ""
    has_whole_pictures = False
    """Whether `cropped` can be asked."""
    upright = False

    def __init__(self, *, root: Path, size_px: int) -> None:
        self.size_px = require_size_px(size_px)
        self.root = root.absolute()  # whoever changes the working directory later changes nothing
        self._unreadable: set[int] = set()

    def _read(self, index: int) -> Scene:
        """Raise UnreadablePictureError where a picture is damaged, so that another stands in."""
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        """`Scene.name` of a scene."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Scene:
        return self._first_readable(index, self._read)

    def cropped(self, index: int, crop: Crop) -> Scene:
        """The scene with a crop of its whole picture in place of the central square; a damaged
        picture is replaced alike."""
        return self._first_readable(index, lambda index: self._cropped(index, crop))

    def _cropped(self, index: int, crop: Crop) -> Scene:
        with self._whole(index) as image:
            picture = crop(to_rgb(image, upright=self.upright))
        name, label = self.name_of(index), self._label(index)
        return Scene(name=name, picture=picture, label=label, mask=None, target=None)

    def _whole(self, index: int) -> AbstractContextManager[Image.Image]:
        """The whole picture, as `preprocess.open_picture` gives it; where `has_whole_pictures`."""
        raise NotImplementedError

    def _label(self, index: int) -> int:
        raise NotImplementedError

    def _first_readable(self, index: int, read: Callable[[int], Scene]) -> Scene:
        first = as_int(index)
        if not 0 <= first < len(self):
            raise IndexError(
                f"index is {index}, but {printable(self.root)} has scenes 0 .. {len(self) - 1}."
            )
        for shift in range(min(len(self), MAX_SUBSTITUTIONS)):
            position = (first + shift) % len(self)
            if position in self._unreadable:
                continue
            try:
                return _read_twice(read, position)
            except PictureStorageError:
                raise
            except UnreadablePictureError as error:
                self._unreadable.add(position)
                warnings.warn(f"{error} The next picture stands in for it.", stacklevel=2)
        raise UnreadablePictureError(
            f"Can not read {printable(self.name_of(first))} in {printable(self.root)}, nor the"
            " pictures after it that could stand in; check that the storage is still there and that"
            " the files are whole."
        )


def _read_twice(read: Callable[[int], Scene], index: int) -> Scene:
    """The scene; a failure counts only if it comes again."""
    try:
        return read(index)
    except UnreadablePictureError:
        time.sleep(_PAUSE_S)
        return read(index)


def shuffled(
    size: int, *, group_of: np.ndarray | None, groups_at_once: int | None, seed: int, epoch: int
) -> np.ndarray:
    """An order of `size` scenes, int64, for a pass over them: the same on every machine.

    With `groups_at_once`, the groups are shuffled (group_of: int [size], of neighbours), and then
    the scenes within so many of them at a time, so that what is read lies near by, as slow storage
    wants it.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    if groups_at_once is None or group_of is None:
        return rng.permutation(size)
    groups = np.split(np.arange(size), np.flatnonzero(np.diff(group_of)) + 1)
    turns = rng.permutation(len(groups))
    chunks = (turns[i : i + groups_at_once] for i in range(0, len(turns), groups_at_once))
    return np.concatenate(
        [rng.permutation(np.concatenate([groups[i] for i in chunk])) for chunk in chunks]
    )


def chosen_rows(
    known: np.ndarray,
    *,
    split: Split,
    labels: Labels,
    name_of: Callable[[int], str],
    root: Path,
    layout: str,
) -> np.ndarray:
    """The rows, int64, that are scenes of a split, of pictures with labels `known`, int32, -1 where
    there is none.

    name_of: the name of a row, which decides its split. layout: what is accepted, for the sentence.
    Raises ValueError where there are none.
    """
    rows = np.flatnonzero(known >= (0 if labels == "required" else -1))
    if not len(rows):
        raise ValueError(
            f"None of the {len(known)} pictures in {printable(root)} has a label; {layout}, so add"
            " labels."
        )
    if split != "all":
        rows = rows[[split_of(name_of(int(row))) == split for row in rows]]
    if not len(rows):
        raise ValueError(
            f'None of the pictures in {printable(root)} falls into split "{split}"; add pictures or'
            ' use split="all".'
        )
    return rows


def split_of(name: str) -> Literal["train", "test"]:
    """The split of the picture of this name: the same on every machine."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 5 == 0 else "train"


def some(names: Sequence[str]) -> str:
    """The first three names and how many are left."""
    shown = ", ".join(map(printable, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
