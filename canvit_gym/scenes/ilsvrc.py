"""ImageNet's validation pictures as they are distributed: one flat folder, with their labels in a
file beside it.
"""

from __future__ import annotations

import csv
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import get_args

from PIL import Image

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import open_picture, printable, read_picture, storage_error
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import FileScenes, files_in
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID, picture_name
from canvit_gym.scenes.stored import Labels, Split, some, split_of

N_PICTURES = 50_000

DEVKIT = "ILSVRC2012_devkit_t12"
LABEL_FILES = (
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt",
    f"{DEVKIT}.tar.gz",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",
)
"""Files that say what the validation pictures show, in the order in which they are looked for:
Kaggle's, the development kit's, TensorFlow's and Caffe's."""

HINT = (
    f"put {LABEL_FILES[0]}, {LABEL_FILES[1]} or val.txt beside the pictures, or sort them into"
    " folders by wnid"
)

# The files say nothing of what their numbers mean, so the first pictures, whose classes are known,
# tell it: ILSVRC2012_IDs (1 to 1000) or positions in the sorted wnids (0 to 999).
_FIRST_DEVKIT_IDS = (490, 361, 171, 822, 297)
_FIRST_LABELS = (65, 970, 230, 809, 516)

_LEVELS = 4  # Kaggle keeps its solution four folders above the pictures


class ValidationScenes(FileScenes):
    """The pictures `ILSVRC2012_val_*.JPEG` of one flat folder, with ImageNet-1k labels.

    label_file: what the labels were read from; None where the pictures have none, which
    `labels="required"` refuses. Names, and with them the splits "train" and "test", are those that
    the pictures have in class folders (n01751748/ILSVRC2012_val_00000001.JPEG).

    Damaged pictures are refused or replaced, as `FileScenes` says.
    """

    class_names: tuple[str, ...] = CLASS_NAMES

    has_whole_pictures = True

    def __init__(
        self,
        root: str | Path,
        *,
        size_px: int = 512,
        split: Split = "all",
        labels: Labels = "any",
        upright: bool = False,
    ) -> None:
        require_choice("split", split, get_args(Split))
        require_choice("labels", labels, get_args(Labels))
        root = Path(root).expanduser()
        self.split, self.upright = split, bool(upright)
        pictures = validation_pictures(root)
        if not pictures:
            raise ValueError(
                f"{printable(root)} holds no pictures ILSVRC2012_val_00000001.JPEG and so on; give"
                " the folder of ImageNet's validation pictures."
            )
        self.label_file, label_of = find_labels(root)
        missing = [name for name in pictures if _stem(name) not in label_of]
        if missing and (labels == "required" or label_of):
            known = "no file of labels" if self.label_file is None else printable(self.label_file)
            raise ValueError(
                f"{len(missing)} of {len(pictures)} pictures in {printable(root)} ({some(missing)})"
                f" have no label in {known}; {HINT}."
            )
        labelled = [(name, label_of.get(_stem(name), -1)) for name in pictures]
        kept = [(n, k) for n, k in labelled if split in ("all", split_of(_scene_name(n, k)))]
        if not kept:
            raise ValueError(
                f'None of the {len(pictures)} pictures in {root} falls into split "{split}"; add'
                ' pictures or use split="all".'
            )
        self.labels = tuple(label for _, label in kept)
        super().__init__(root=root, names=[name for name, _ in kept], size_px=size_px)

    def name_of(self, index: int) -> str:
        return _scene_name(self.names[index], self.labels[index])

    def _whole(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_picture(self.root / self.names[index])

    def _label(self, index: int) -> int:
        return self.labels[index]

    def _read(self, index: int) -> Scene:
        path = self.root / self.names[index]
        return Scene(
            name=self.name_of(index),
            picture=read_picture(path, self.size_px, upright=self.upright),
            label=self.labels[index],
            mask=None,
            target=None,
        )


def validation_pictures(folder: Path) -> list[str]:
    """Sorted names of the official validation pictures that lie in a folder."""
    return [n for n in files_in(folder, {".jpeg", ".jpg"}) if is_validation(_stem(n))]


def is_validation(stem: str) -> bool:
    """Whether a file name, without its suffix, is that of an official validation picture."""
    return picture_name(stem, label=0) is not None


def find_labels(folder: Path) -> tuple[Path | None, Mapping[str, int]]:
    """The nearest of LABEL_FILES in a folder or above it, and the ImageNet-1k label of each picture
    by its file name without suffix; None and no labels where there is no such file.

    Raises ValueError where a file is no such list of labels.
    """
    folder = folder.absolute()
    for place in (folder, *folder.parents[:_LEVELS]):
        for name in LABEL_FILES:
            if (path := place / name).is_file():
                return path, read_labels(path)
    return None, {}


def read_labels(path: Path) -> dict[str, int]:
    """The ImageNet-1k label of each picture, by its file name without suffix.

    Read are `LOC_val_solution.csv` (ImageId, PredictionString); lines of a name and a wnid or a
    position in the sorted wnids, as Caffe's val.txt; a line for each of the 50,000 pictures with a
    wnid, an ILSVRC2012_ID or such a position; and the development kit's archive.

    Raises ValueError, which names the file and the line, for anything else.
    """
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if lines and lines[0].strip().lower().startswith("imageid"):
        rows = list(csv.reader(lines))[1:]
        pairs: Iterable[Sequence[str]] = [(row[0], (row[-1].split() or [""])[0]) for row in rows]
    else:
        pairs = [line.split() for line in lines]
        if all(len(pair) == 1 for pair in pairs):
            return _by_position(path, [pair[0] for pair in pairs])
    labels = {}
    for number, pair in enumerate(pairs, start=1):
        label = _label(pair[1]) if len(pair) == 2 else None
        if label is None:
            raise ValueError(
                f"{printable(path)} names no class of ImageNet-1k in its entry {number}"
                f" ({printable(' '.join(pair))[:60]}); give a picture's name and its wnid, or its"
                " class id from 0 to 999, in each line."
            )
        labels[_stem(pair[0].rpartition("/")[2])] = label
    known = dict(zip(map(_stem_of, range(len(_FIRST_LABELS))), _FIRST_LABELS, strict=True))
    if wrong := [stem for stem, label in known.items() if labels.get(stem, label) != label]:
        raise ValueError(
            f"{printable(path)} says that {wrong[0]} is of class {labels[wrong[0]]}, which is"
            f" {known[wrong[0]]} where wnids are sorted; {HINT}."
        )
    return labels


def _by_position(path: Path, entries: list[str]) -> dict[str, int]:
    """Labels from one entry a picture, in the order of the pictures."""
    if len(entries) != N_PICTURES:
        raise ValueError(
            f"{printable(path)} has {len(entries)} lines, but ImageNet has {N_PICTURES} validation"
            f" pictures; {HINT}."
        )
    first = tuple(entries[: len(_FIRST_LABELS)])
    in_devkit = first == tuple(map(str, _FIRST_DEVKIT_IDS))
    labels = [_devkit_label(entry) if in_devkit else _label(entry) for entry in entries]
    if tuple(labels[: len(_FIRST_LABELS)]) != _FIRST_LABELS or None in labels:
        raise ValueError(
            f"{printable(path)} does not hold the classes of ImageNet's validation pictures, which"
            f" begin with sea snake, alp and Shetland sheepdog; {HINT}."
        )
    return {_stem_of(i): label for i, label in enumerate(labels) if label is not None}


def _stem_of(position: int) -> str:
    return f"ILSVRC2012_val_{position + 1:08}"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.lower().endswith((".jpeg", ".jpg")) else name


def _scene_name(name: str, label: int) -> str:
    return picture_name(_stem(name), label=label) or name


def _label(text: str) -> int | None:
    """The label that a wnid or a class id stands for."""
    if text in LABEL_OF_WNID:
        return LABEL_OF_WNID[text]
    is_id = re.fullmatch(r"[0-9]{1,3}", text)
    return int(text) if is_id else None


def _devkit_label(text: str) -> int | None:
    """The label of an ILSVRC2012_ID."""
    order = _devkit_order()
    is_id = re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= len(order)
    return LABEL_OF_WNID[order[int(text) - 1]] if is_id else None


@cache
def _devkit_order() -> tuple[str, ...]:
    """The wnids in the order of ILSVRC2012_ID, which is not that of the sorted wnids."""
    text = (files("canvit_gym") / "assets" / "imagenet_devkit_ids.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def _text(path: Path) -> str:
    try:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                member = archive.extractfile(LABEL_FILES[2])
                assert member is not None, "a folder"
                return member.read().decode("utf-8")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise storage_error(path, error) from error
    except (UnicodeDecodeError, tarfile.TarError, KeyError, AssertionError, EOFError) as error:
        raise ValueError(f"{printable(path)} is no file of labels ({error}); {HINT}.") from error
