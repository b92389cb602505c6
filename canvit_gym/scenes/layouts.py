"""A folder of pictures in any of the usual layouts: which one it is, and its scenes.

`python -m canvit_gym.scenes.layouts FOLDER` says what a folder is taken for.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import printable
from canvit_gym.scenes import table, tar
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import PICTURE_SUFFIXES, FolderScenes, class_names_of, files_in
from canvit_gym.scenes.ilsvrc import HINT, ValidationScenes, find_labels, validation_pictures
from canvit_gym.scenes.stored import Classes, Crop, Labels, Split, StoredScenes, some

LAYOUTS = (
    "accepted are class folders (n01440764/x.JPEG), ImageNet's ILSVRC2012_val_*.JPEG with their"
    " labels in a file, tar shards (KEY.jpg, KEY.json), Parquet or Arrow files of Hugging Face"
    " datasets, Kaggle's ILSVRC/Data/CLS-LOC, and folders train and val of any of these"
)

_TRAIN_NAMES = ("train", "training", "train-shuffled")
_TEST_NAMES = ("val", "validation", "valid", "val-shuffled", "test")
"""Names of the parts of a data set, the first preferred: test pictures often have no labels."""

_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a folder is taken for.

    kind: in words, for people. open: its scenes, from the keyword arguments of `open_scenes` and
    the split. parts: the layouts of its parts "train" and "test", where it has such.
    """

    kind: str
    open: Callable[..., StoredScenes]
    parts: tuple[tuple[Split, Layout], ...] = ()
    root: Path


def open_scenes(
    root: str | Path,
    *,
    size_px: int = 512,
    split: Split | None = None,
    classes: Classes = "any",
    labels: Labels = "any",
    upright: bool = False,
) -> StoredScenes:
    """The scenes of a folder, or of a tar file, whatever its layout; `scenes.layout` says which.

    split: where the data set itself has parts, "train" and "test" are its training and its
    validation pictures, "all" both, and None the validation pictures; otherwise "train" and "test"
    part the pictures four to one by a hash of their names, and None means all.
    classes: "imagenet" demands labels of ImageNet-1k. labels: "required" leaves out, or refuses,
    pictures without one.

    Raises FileNotFoundError or ValueError, in one sentence that says what would be accepted.
    """
    require_choice("classes", classes, get_args(Classes))
    require_choice("labels", labels, get_args(Labels))
    if split is not None:
        require_choice("split", split, get_args(Split))
    root = Path(root).expanduser()
    layout = recognise(root)
    options: dict[str, Any] = {
        "size_px": size_px, "classes": classes, "labels": labels, "upright": upright
    }  # fmt: skip
    if not layout.parts:
        scenes = layout.open(split=split or "all", **options)
        scenes.layout = f"{layout.kind}, {_counted(scenes)}"
        return scenes

    chosen = [(name, part) for name, part in layout.parts if split in (name, "all")]
    if split is None:
        chosen = [layout.parts[-1]]
    if not chosen:
        have = " and ".join(f'"{name}"' for name, _ in layout.parts)
        raise ValueError(
            f'{printable(root)} is {layout.kind}, which has no split "{split}"; choose {have}.'
        )
    if classes == "any":
        _require_one_numbering(layout.parts)
    if classes == "imagenet" and split == "train":
        warnings.warn(
            f"The training pictures of {printable(root)} are used, which may be among those that"
            " the backbone has learned from: then rewards say little about where to look. Give its"
            " validation pictures alone, which have splits of their own.",
            stacklevel=2,
        )
    opened = [(name, part, part.open(split="all", **options)) for name, part in chosen]
    scenes = opened[0][2] if len(opened) == 1 else JoinedScenes([(n, s) for n, _, s in opened])
    kinds = " and ".join(f"{name} from {p.root.name} ({p.kind})" for name, p, _ in opened)
    scenes.layout = f"{layout.kind}: {kinds}, {_counted(scenes)}"
    return scenes


class JoinedScenes(StoredScenes):
    """The scenes of several sources, one after the other; names begin with that of their part."""

    def __init__(self, parts: Sequence[tuple[str, StoredScenes]]) -> None:
        super().__init__(root=parts[0][1].root.parent, size_px=parts[0][1].size_px)
        self.parts = tuple(parts)
        self.has_whole_pictures = all(scenes.has_whole_pictures for _, scenes in parts)
        self.class_names = max((scenes.class_names for _, scenes in parts), key=len)

    def __len__(self) -> int:
        return sum(len(scenes) for _, scenes in self.parts)

    def name_of(self, index: int) -> str:
        part, scenes, place = self._place(index)
        return f"{part}/{scenes.name_of(place)}"

    def _read(self, index: int) -> Scene:
        part, scenes, place = self._place(index)
        scene = scenes._read(place)
        return replace(scene, name=f"{part}/{scene.name}")

    def _cropped(self, index: int, crop: Crop) -> Scene:
        part, scenes, place = self._place(index)
        scene = scenes._cropped(place, crop)
        return replace(scene, name=f"{part}/{scene.name}")

    def _place(self, index: int) -> tuple[str, StoredScenes, int]:
        for part, scenes in self.parts:
            if index < len(scenes):
                return part, scenes, index
            index -= len(scenes)
        raise IndexError(index)


# -- recognising -----------------------------------------------------------------------------------


def recognise(root: Path) -> Layout:
    """What a folder, or a tar file, is; raises FileNotFoundError or ValueError where it is nothing
    that is known."""
    if not root.exists():
        raise FileNotFoundError(f"There is no {printable(root)}; {LAYOUTS}.")
    if root.is_file():
        if root.suffix.lower() == ".tar":
            return _tar(root)
        raise ValueError(f"{printable(root)} is a file of no known kind; {LAYOUTS}.")
    for recogniser in (_kaggle, _tables, _tars, _validation, _parted, _class_folders):
        if (layout := recogniser(root)) is not None:
            return layout
    loose = files_in(root, PICTURE_SUFFIXES)
    what = f"loose pictures ({some(loose)}), which have no label" if loose else "no pictures"
    raise ValueError(f"{printable(root)} holds {what}; {LAYOUTS}.")


def _class_folders(root: Path) -> Layout | None:
    folders = _folders(root)
    if not folders or files_in(root, PICTURE_SUFFIXES):
        return None
    return Layout(kind="class folders", open=_without_labels(FolderScenes, root), root=root)


def _validation(root: Path) -> Layout | None:
    if not validation_pictures(root):
        return None
    kind = "ImageNet's validation pictures in one folder"
    path, _ = find_labels(root)
    kind += ", without labels" if path is None else f", with labels of {path.name}"
    return Layout(kind=kind, open=_without_classes(ValidationScenes, root), root=root)


def _tars(root: Path) -> Layout | None:
    names = files_in(root, {".tar"})
    if not names or _parts_of(root):
        return None
    if "ILSVRC2012_img_train.tar" in names:
        raise ValueError(
            f"{printable(root / 'ILSVRC2012_img_train.tar')} is a tar file of tar files; unpack it,"
            " and each of the files in it, into a folder of its own by wnid."
        )
    if names == ["ILSVRC2012_img_val.tar"]:
        return _tar(root / names[0])
    return _tar(root)


def _tar(root: Path) -> Layout:
    shards = "a tar file" if root.is_file() else "tar shards"
    return Layout(kind=shards, open=partial(_open_tar, root), root=root)


def _open_tar(root: Path, *, classes: Classes, labels: Labels, **options: Any) -> StoredScenes:
    """Tar shards, with the labels of a file beside them where they are official pictures."""
    open_tar = partial(tar.TarScenes, root, classes=classes, **options)
    scenes = open_tar(labels="any")
    if tar.without_labels(scenes):
        folder = root.parent if root.is_file() else root
        path, labels_of = find_labels(folder)
        if path is not None:
            return open_tar(labels=labels, labels_of=labels_of)
        if labels == "required":
            raise ValueError(
                f"{printable(root)} holds ImageNet's validation pictures without labels; {HINT}."
            )
    return open_tar(labels=labels) if labels == "required" else scenes


_PREFIX = re.compile(r"(?P<part>[A-Za-z_]+)[-_.]")


def _tables(root: Path) -> Layout | None:
    """What `datasets` saved: tables here or in `data`, by part in folders or in their names."""
    for folder in (root, root / "data"):
        names = files_in(folder, table.SUFFIXES) if folder.is_dir() else []
        if not names:
            continue
        of_part: dict[str, list[str]] = {}
        for name in names:
            match = _PREFIX.match(name)
            part = match["part"] if match else Path(name).stem
            of_part.setdefault(part if part in (*_TRAIN_NAMES, *_TEST_NAMES) else "", []).append(
                name
            )
        kind = f"{Path(names[0]).suffix[1:].capitalize()} files of a Hugging Face data set"

        def layout(files: list[str], kind: str = kind, folder: Path = folder) -> Layout:
            opener = partial(table.TableScenes, folder, files=files)
            return Layout(kind=kind, open=opener, root=folder)

        if set(of_part) == {""}:
            return layout(names)
        parts = _chosen({part: layout(files) for part, files in of_part.items()})
        return Layout(kind=kind, open=layout(names).open, parts=parts, root=root)
    return None


def _kaggle(root: Path) -> Layout | None:
    for below in _KAGGLE:
        if (data := root / below).is_dir() and _parts_of(data):
            return _of_parts(data, "Kaggle's tree of ImageNet")
    if root.name == "CLS-LOC" and _parts_of(root):
        return _of_parts(root, "Kaggle's tree of ImageNet")
    return None


def _parted(root: Path) -> Layout | None:
    if (root / "dataset_dict.json").is_file():
        return _of_parts(root, "a Hugging Face data set in parts")
    return _of_parts(root, "a data set in parts") if _parts_of(root) else None


def _parts_of(root: Path) -> list[str]:
    """The folders of a data set in parts; [] where it has not both training and other pictures."""
    folders = _folders(root)
    is_parted = set(folders) & set(_TRAIN_NAMES) and set(folders) & set(_TEST_NAMES)
    return folders if is_parted else []


def _of_parts(root: Path, kind: str) -> Layout:
    names = [n for n in (*_TRAIN_NAMES, *_TEST_NAMES) if (root / n).is_dir()]
    parts = {}
    for names_of in (_TRAIN_NAMES, _TEST_NAMES):
        name = next((name for name in names_of if name in names), None)
        if name is not None:
            parts[name] = recognise(root / name)
    if not parts:
        raise ValueError(f"{printable(root)} is {kind} without a folder train or validation.")
    return Layout(kind=kind, open=_refuse, parts=_chosen(parts), root=root)


def _chosen(found: dict[str, Layout]) -> tuple[tuple[Split, Layout], ...]:
    """The parts that are the splits "train" and "test"."""
    chosen: list[tuple[Split, Layout]] = []
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (
        ("train", _TRAIN_NAMES),
        ("test", _TEST_NAMES),
    )
    for split, names in splits:
        name = next((name for name in names if name in found), None)
        if name is not None:
            chosen.append((split, found[name]))
    return tuple(chosen)


def _require_one_numbering(parts: Sequence[tuple[str, Layout]]) -> None:
    """Raise ValueError where classes would have other numbers in one part than in another."""
    folders = [part for _, part in parts if part.kind == "class folders"]
    names = [class_names_of(part.root) for part in folders]
    for layout, own in zip(folders[1:], names[1:], strict=True):
        # Folders named by number have their ids, whichever of them are there.
        if own != names[0] and not (own[0].isdigit() and names[0][0].isdigit()):
            different = sorted(set(own) ^ set(names[0]))
            raise ValueError(
                f"{printable(layout.root)} and {printable(folders[0].root)} have different class"
                f" folders ({some(different)}), so that numbers of classes would differ; give both"
                " the same ones."
            )


def _refuse(**_: Any) -> StoredScenes:
    raise NotImplementedError("A data set in parts is opened part by part.")


def _without_labels(kind: Callable[..., StoredScenes], root: Path) -> Callable[..., StoredScenes]:
    """An opener for sources in which every picture has a label."""
    return lambda *, labels, **options: kind(root, **options)


def _without_classes(kind: Callable[..., StoredScenes], root: Path) -> Callable[..., StoredScenes]:
    """An opener for sources whose classes are ImageNet's in any case."""
    return lambda *, classes, **options: kind(root, **options)


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _counted(scenes: StoredScenes) -> str:
    return f"{len(scenes)} pictures of {len(scenes.class_names)} classes"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.scenes.layouts", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("root", type=Path, help="folder of pictures, or tar file")
    parser.add_argument("--split", choices=get_args(Split))
    parser.add_argument("--classes", choices=get_args(Classes), default="any")
    given = parser.parse_args(arguments)
    try:
        scenes = open_scenes(given.root, split=given.split, classes=given.classes)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{given.root}: {scenes.layout}")


if __name__ == "__main__":
    main()
