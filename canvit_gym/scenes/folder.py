"""Scenes from a folder of labelled pictures: ImageNet, or anything laid out like it.

`FileScenes` is what it shares with other sources that read picture files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import get_args

from PIL import Image

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import (
    PictureStorageError,
    UnreadablePictureError,
    open_picture,
    printable,
    read_picture,
    require_size_px,
)
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID
from canvit_gym.scenes.stored import Classes, Split, StoredScenes, some, split_of

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
)

MAX_CHECKED = 100_000
"""Files whose headers are read when a source is made; the training pictures of ImageNet would take
minutes."""

MAX_ID = 99_999
"""The highest class id that a folder's name may give."""

_LAYOUT = (
    "accepted is <folder>/<class>/<picture>, with class folders named by ImageNet-1k wnid"
    " (n01440764), by class id (0, 1, ...) or by any other names"
)
_WNID = re.compile(r"n[0-9]{8}")
_ID = re.compile(r"[0-9]+")


class FileScenes(StoredScenes):
    """Scenes made from the picture files `root`/`names`; sources say how with `_check` and `_read`.

    Every file's header is read at construction (some 7 s for 50,000; of more than MAX_CHECKED
    files, evenly spaced ones), and files that are no pictures, or not of a supported kind, are
    refused together, by name. What shows only later is replaced, as `StoredScenes` says.

    names: `Scene.name` of each scene, the path of its picture below `root`.
    """

    def __init__(self, *, root: Path, names: Sequence[str], size_px: int) -> None:
        super().__init__(root=root, size_px=size_px)
        self.names = tuple(names)
        self._check_all()

    def _check(self, index: int) -> None:
        """Raise UnreadablePictureError where headers show that a scene can not be used."""
        with open_picture(self.root / self.names[index]):
            pass

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def _check_all(self) -> None:
        # One after the other: Pillow reads headers under the interpreter lock, so threads only made
        # it slower (0.3 ms a file instead of 0.15 ms with warm files).
        problems: dict[str, str] = {}
        for index in range(0, len(self), -(-len(self) // MAX_CHECKED) or 1):
            try:
                self._check(index)
            except PictureStorageError:
                raise
            except UnreadablePictureError as error:
                problems[self.names[index]] = str(error)
        if problems:
            raise UnreadablePictureError(
                f"{len(problems)} of {len(self)} pictures can not be used"
                f" ({some(list(problems))}); {next(iter(problems.values()))}"
            )


class FolderScenes(FileScenes):
    """The pictures of `root`/<class>/<picture>, in sorted order.

    **Labels.** Class folders named by wnid (n01440764) get their ImageNet-1k ids, however few of
    the 1000 are there. Folders named by numbers ("7", or "007") have these as their ids: class 10
    is 10, not the one after 1. Any other names are numbered in sorted order, as torchvision's
    ImageFolder does. The three kinds can not be mixed. With `classes="imagenet"` numbers are
    ImageNet-1k ids, 0 to 999, and other names are refused.

    **Files.** Hidden files, files that are no pictures by their suffix, and deeper folders are
    ignored. Links that lead nowhere are refused, because leaving their classes out would shift the
    labels of others.

    **Orientation.** Pictures are taken as they are stored, as the published evaluation does;
    `upright` applies their EXIF orientation.

    **Splits.** "train" and "test" part the pictures four to one by a hash of their path below
    `root`: policies train on "train" and are judged on "test". The CanViT backbones were trained
    on ImageNet's training pictures, so `root` should hold the validation ones: on a scene that
    the backbone has memorised, the reward says nothing about where to look.

    **Unreadable pictures** are refused or replaced, as `FileScenes` says.
    """

    has_whole_pictures = True

    def __init__(
        self,
        root: str | Path,
        *,
        size_px: int = 512,
        split: Split = "all",
        classes: Classes = "any",
        upright: bool = False,
    ) -> None:
        require_choice("split", split, get_args(Split))
        require_choice("classes", classes, get_args(Classes))
        size_px = require_size_px(size_px)
        self.split, self.upright = split, bool(upright)

        root = Path(root).expanduser()
        pictures = _list_pictures(root)
        labels, self.class_names = _label_classes(root, list(pictures), classes=classes)
        names = [f"{folder}/{file}" for folder, files in pictures.items() for file in files]
        kept = [name for name in names if split in ("all", split_of(name))]
        if not kept:
            raise ValueError(
                f'None of the {len(names)} pictures in {root} falls into split "{split}";'
                ' add pictures or use split="all".'
            )
        self.labels = tuple(labels[name.partition("/")[0]] for name in kept)
        super().__init__(root=root, names=kept, size_px=size_px)

    def _whole(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_picture(self.root / self.names[index])

    def _label(self, index: int) -> int:
        return self.labels[index]

    def _read(self, index: int) -> Scene:
        name = self.names[index]
        return Scene(
            name=name,
            picture=read_picture(self.root / name, self.size_px, upright=self.upright),
            label=self.labels[index],
            mask=None,
            target=None,
        )


def class_names_of(root: Path) -> tuple[str, ...]:
    """The names of the classes that `root`/<class> stand for, without a look at any picture."""
    folders = [entry.name for entry in _visible(root) if entry.is_dir()]
    return _label_classes(root, folders, classes="any")[1]


def _list_pictures(root: Path) -> dict[str, list[str]]:
    """Class folder -> its picture files, both sorted."""
    if not root.exists():
        raise FileNotFoundError(f"There is no folder {root}; {_LAYOUT}.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, not a folder of pictures; {_LAYOUT}.")
    if loose := files_in(root, PICTURE_SUFFIXES):
        raise ValueError(
            f"{root} holds pictures outside class folders ({some(loose)}), which have no label;"
            f" {_LAYOUT}, so sort them into class folders."
        )
    folders = []
    for entry in _visible(root):
        _require_target(entry)
        if entry.is_dir():
            folders.append(entry.name)
    if not folders:
        raise ValueError(f"{root} holds no pictures; {_LAYOUT}.")
    pictures = {folder: files_in(root / folder, PICTURE_SUFFIXES) for folder in folders}
    if empty := [folder for folder, files in pictures.items() if not files]:
        raise ValueError(
            f"{root} has class folders without pictures ({some(empty)}); {_LAYOUT}, so fill or"
            " remove them, or give the folder that holds the classes."
        )
    return pictures


def files_in(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Sorted names of the files with one of these suffixes, in lower case with the dot.

    Raises ValueError where one is a link that leads nowhere.
    """
    names = []
    for entry in _visible(folder):
        if os.path.splitext(entry.name)[1].lower() in suffixes:
            _require_target(entry)
            if entry.is_file():
                names.append(entry.name)
    return names


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Entries that are not hidden, sorted by name: macOS leaves "._name.JPEG" beside its copies."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise PictureStorageError(
            f"{printable(folder)} can not be listed: {error.strerror}; check the storage and what"
            " you may read there."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _require_target(entry: os.DirEntry[str]) -> None:
    """Raise ValueError where the entry is a link that leads nowhere, or round in a circle."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise ValueError(
            f"{printable(entry.path)} is a link to {printable(os.readlink(entry.path))}, where"
            " nothing can be found; mend or remove it."
        )


def _label_classes(
    root: Path, folders: list[str], *, classes: Classes
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class folder -> label, and the names of all labels."""
    wnids = [folder for folder in folders if _WNID.fullmatch(folder)]
    numbers = [folder for folder in folders if _ID.fullmatch(folder)]
    for kind, named in (("wnid", wnids), ("number", numbers)):
        others = [folder for folder in folders if folder not in set(named)]
        if named and others:
            raise ValueError(
                f"{printable(root)} mixes class folders named by {kind} with others"
                f" ({some(others)}); name all by {kind} or none."
            )
    if numbers:
        return _label_by_id(root, numbers, classes=classes)
    if wnids:
        if unknown := [folder for folder in folders if folder not in LABEL_OF_WNID]:
            raise ValueError(
                f"{printable(root)} has class folders whose wnids are not in ImageNet-1k"
                f" ({some(unknown)}); remove them, or rename all folders to number the classes from"
                " 0 instead."
            )
        return {folder: LABEL_OF_WNID[folder] for folder in folders}, CLASS_NAMES
    if classes == "imagenet":
        raise ValueError(
            f"{printable(root)} has class folders ({some(folders)}) that are neither ImageNet-1k"
            " wnids (n01440764) nor its ids (0 .. 999), so a classifier of ImageNet can not be"
            " scored on them; rename the folders, or give the folder that holds the classes."
        )
    return {folder: label for label, folder in enumerate(folders)}, tuple(folders)


def _label_by_id(
    root: Path, folders: list[str], *, classes: Classes
) -> tuple[dict[str, int], tuple[str, ...]]:
    highest = len(CLASS_NAMES) - 1 if classes == "imagenet" else MAX_ID
    # compared as texts first, for int() refuses thousands of digits
    if beyond := [f for f in folders if len(f.lstrip("0")) > 5 or int(f) > highest]:
        raise ValueError(
            f"{printable(root)} has class folders whose numbers are no class ids from 0 to"
            f" {highest} ({some(beyond)}); remove or rename them."
        )
    labels = {folder: int(folder) for folder in folders}
    of_label: dict[int, str] = {}
    for folder, label in labels.items():
        if (other := of_label.setdefault(label, folder)) != folder:
            raise ValueError(
                f"{printable(root)} has the class folders {other} and {folder}, which are one"
                " class id; put their pictures into one of them."
            )
    if classes == "imagenet":
        return labels, CLASS_NAMES
    return labels, tuple(str(label) for label in range(max(labels.values()) + 1))
