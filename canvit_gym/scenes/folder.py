"""Scenes from a folder of labelled pictures: ImageNet, or anything laid out like it.

`FileScenes` is what it shares with other sources that read picture files.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Collection, Sequence
from operator import index as as_int
from pathlib import Path
from typing import Literal, get_args

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import UnreadablePictureError, open_picture, read_picture
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID

Split = Literal["all", "train", "test"]

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
)

# One unreadable picture is an accident; so many in a row mean that the storage is gone.
MAX_SUBSTITUTIONS = 10

_LAYOUT = (
    "accepted is <folder>/<class>/<picture>, with class folders named by ImageNet-1k wnid"
    " (n01440764) or by any other names"
)
_WNID = re.compile(r"n\d{8}")


class FileScenes:
    """Scenes made from the picture files `root`/`names`; sources say how with `_check` and `_read`.

    Every file's header is read at construction (some 7 s for 50,000), and files that are no
    pictures, or not of a supported kind, are refused together, by name. Data damaged behind an
    intact header shows only when a scene is asked for: then a warning names the file, once, and the
    next readable picture stands in for it (under its own name and label), so that a long run goes
    on.

    names: `Scene.name` of each scene, the path of its picture below `root`.
    """

    def __init__(self, *, root: Path, names: Sequence[str], size_px: int) -> None:
        if size_px < 1:
            raise ValueError(f"size_px is {size_px} but must be at least 1; CanViT uses 512.")
        self.root = root
        self.names = tuple(names)
        self.size_px = size_px
        self._unreadable: set[int] = set()
        self._check_all()

    def _check(self, index: int) -> None:
        """Raise UnreadablePictureError where headers show that a scene can not be used."""
        with open_picture(self.root / self.names[index]):
            pass

    def _read(self, index: int) -> Scene:
        """Raise UnreadablePictureError where a file is damaged, so that another stands in."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        first = as_int(index)
        if not 0 <= first < len(self):
            raise IndexError(f"index is {index}, but {self.root} has scenes 0 .. {len(self) - 1}.")
        for shift in range(min(len(self), MAX_SUBSTITUTIONS)):
            position = (first + shift) % len(self)
            if position in self._unreadable:
                continue
            try:
                return self._read(position)
            except UnreadablePictureError as error:
                self._unreadable.add(position)
                warnings.warn(f"{error} The next picture stands in for it.", stacklevel=2)
        raise UnreadablePictureError(
            f"Can not read {self.names[first]} in {self.root}, nor the pictures after it that could"
            " stand in; check that the storage is still there and that the files are whole."
        )

    def _check_all(self) -> None:
        # One after the other: Pillow reads headers under the interpreter lock, so threads only made
        # it slower (0.3 ms a file instead of 0.15 ms with warm files).
        problems: dict[str, str] = {}
        for index, name in enumerate(self.names):
            try:
                self._check(index)
            except UnreadablePictureError as error:
                problems[name] = str(error)
        if problems:
            raise UnreadablePictureError(
                f"{len(problems)} of {len(self)} pictures can not be used"
                f" ({some(list(problems))}); {next(iter(problems.values()))}"
            )


class FolderScenes(FileScenes):
    """The pictures of `root`/<class>/<picture>, in sorted order.

    **Labels.** Class folders named by wnid (n01440764) get their ImageNet-1k ids, however few of
    the 1000 are there. Any other names are numbered in sorted order, as torchvision's ImageFolder
    does. Hidden files, files that are no pictures by their suffix, and deeper folders are ignored.

    **Splits.** "train" and "test" part the pictures four to one by a hash of their path below
    `root`: policies train on "train" and are judged on "test". The CanViT backbones were trained
    on ImageNet's training pictures, so `root` should hold the validation ones: on a scene that
    the backbone has memorised, the reward says nothing about where to look.

    **Unreadable pictures** are refused or replaced, as `FileScenes` says.
    """

    mask_class_names: tuple[str, ...] = ()

    def __init__(self, root: str | Path, *, size_px: int = 512, split: Split = "all") -> None:
        require_choice("split", split, get_args(Split))
        self.split = split

        root = Path(root).expanduser()
        pictures = _list_pictures(root)
        labels, self.class_names = _label_classes(root, list(pictures))
        names = [f"{folder}/{file}" for folder, files in pictures.items() for file in files]
        kept = [name for name in names if split in ("all", split_of(name))]
        if not kept:
            raise ValueError(
                f'None of the {len(names)} pictures in {root} falls into split "{split}";'
                ' add pictures or use split="all".'
            )
        self.labels = tuple(labels[name.partition("/")[0]] for name in kept)
        super().__init__(root=root, names=kept, size_px=size_px)

    def _read(self, index: int) -> Scene:
        name = self.names[index]
        return Scene(
            name=name,
            picture=read_picture(self.root / name, self.size_px),
            label=self.labels[index],
            mask=None,
            target=None,
        )


def split_of(name: str) -> Literal["train", "test"]:
    """The split of the picture at this path below the root: the same on every machine."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 5 == 0 else "train"


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
    with os.scandir(root) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
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
    """Sorted names of the files with one of these suffixes, in lower case with the dot."""

    def is_wanted(entry: os.DirEntry[str]) -> bool:
        suffix = os.path.splitext(entry.name)[1].lower()
        # Hidden files are skipped for the "._name.JPEG" that macOS leaves beside its copies.
        return not entry.name.startswith(".") and suffix in suffixes and entry.is_file()

    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_wanted(entry))


def _label_classes(root: Path, folders: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class folder -> label, and the names of all labels."""
    others = [folder for folder in folders if not _WNID.fullmatch(folder)]
    if len(others) == len(folders):
        return {folder: label for label, folder in enumerate(folders)}, tuple(folders)
    if others:
        raise ValueError(
            f"{root} mixes class folders named by wnid with others ({some(others)}); name all by"
            " wnid or none."
        )
    if unknown := [folder for folder in folders if folder not in LABEL_OF_WNID]:
        raise ValueError(
            f"{root} has class folders whose wnids are not in ImageNet-1k ({some(unknown)});"
            " remove them, or rename all folders to number the classes from 0 instead."
        )
    return {folder: LABEL_OF_WNID[folder] for folder in folders}, CLASS_NAMES


def some(names: Sequence[str]) -> str:
    """The first three names and how many are left."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
