"""Scenes of ADE20K in its SceneParse150 form: every pixel has one of 150 classes, or none.

Source: ADEChallengeData2016, http://sceneparsing.csail.mit.edu.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import (
    Fit,
    PictureError,
    decode,
    open_picture,
    preprocess_mask,
    preprocess_picture,
    printable,
    require_mask,
    require_size_px,
)
from canvit_gym.scenes.base import IGNORE, Scene
from canvit_gym.scenes.folder import FileScenes, files_in
from canvit_gym.scenes.stored import some

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_FOLDERS: dict[Split, str] = {"train": "training", "test": "validation"}

_KINDS = ("images", "annotations")

_LAYOUT = (
    "accepted is the folder ADEChallengeData2016 of SceneParse150, which holds"
    " images/{training,validation}/*.jpg and annotations/{training,validation}/*.png"
)


def _read_class_names() -> tuple[str, ...]:
    text = files("canvit_gym").joinpath("assets", "ade20k_classes.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


CLASS_NAMES: tuple[str, ...] = _read_class_names()
"""The 150 classes in index order, which is that of the published probes' outputs."""


class ADE20KScenes(FileScenes):
    """The pictures of `root`/images/<folder> with their masks in `root`/annotations/<folder>.

    **Splits.** Policies train on "train", the folder `training` (20,210 pictures), and are judged
    on "test", the folder `validation` (2,000). The published segmentation probes were trained on
    `training` too: rewards on "train" are those of a readout that has seen these very labels.

    **Square.** `fit="squish"` scales picture and mask to `size_px` x `size_px` and loses their
    aspect, as the published evaluation does, so that every pixel is seen and scored; "crop" keeps
    the aspect and the centre. To the pixel, both are what torchvision's Resize (bilinear and
    antialiased for the picture, NEAREST for the mask) and CenterCrop give.

    **Masks.** Annotations are 8-bit greyscale of their picture's size: value k > 0 becomes class k
    - 1, an index into `mask_class_names`, and 0 becomes `IGNORE`. Annotations in colour are
    refused, and so are those in a format that changes values (JPEG) and those with a palette: tools
    that repack greyscale as a palette renumber its values, and a file does not say whether one did.
    Pictures are taken as they are stored, without their EXIF orientation, because that is how their
    masks were drawn. A scene as a whole has no class: `Scene.label` is -1.

    **Unusable files.** Pairs, sizes and modes are checked at construction for all scenes (a few
    seconds for `training`). Files damaged behind an intact header are replaced, as `FileScenes`
    says, but a mask with values above 150 raises ValueError when its scene is asked for: that is
    another data set, not an accident.
    """

    class_names: tuple[str, ...] = ()
    mask_class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(
        self, root: str | Path, *, split: Split, size_px: int = 512, fit: Fit = "squish"
    ) -> None:
        require_choice("split", split, SPLITS)
        require_choice("fit", fit, get_args(Fit))
        self.split: Split = split
        self.fit: Fit = fit

        size_px = require_size_px(size_px)
        root = Path(root).expanduser()
        _require_folders(root, split)
        images, annotations = (f"{kind}/{_FOLDERS[split]}" for kind in _KINDS)
        pairs = _list_pairs(root / images, root / annotations)
        self.mask_names = tuple(f"{annotations}/{mask}" for _, mask in pairs)
        names = [f"{images}/{picture}" for picture, _ in pairs]
        super().__init__(root=root, names=names, size_px=size_px)

    def _check(self, index: int) -> None:
        picture = self.root / self.names[index]
        with open_picture(picture) as image:
            size = image.size
        with open_picture(self.root / self.mask_names[index]) as image:
            require_mask(image)
            if image.size != size:
                raise PictureError(
                    f"it has {_shape(image.size)} but its picture {printable(picture)} has"
                    f" {_shape(size)} as stored (EXIF orientation does not count); save both in one"
                    " size"
                )

    def _read(self, index: int) -> Scene:
        mask_path = self.root / self.mask_names[index]
        with open_picture(self.root / self.names[index]) as image:
            picture = preprocess_picture(image, self.size_px, fit=self.fit)
        with open_picture(mask_path) as image:
            decode(image)
            highest = int(np.asarray(image).max())
            values = preprocess_mask(image, self.size_px, fit=self.fit)
        if highest > len(CLASS_NAMES):
            raise ValueError(
                f"{printable(mask_path)} holds the value {highest}, but SceneParse150 has only 0"
                f" (no class) and 1 .. {len(CLASS_NAMES)}; take its own annotations, unshifted."
            )
        mask = np.where(values == 0, np.uint8(IGNORE), values - 1)
        return Scene(name=self.names[index], picture=picture, label=-1, mask=mask, target=None)


def _require_folders(root: Path, split: Split) -> None:
    if not root.exists():
        raise FileNotFoundError(f"There is no folder {root}; {_LAYOUT}.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, not a folder of pictures; {_LAYOUT}.")
    if not (missing := _missing_folders(root, split)):
        return
    there = [f'split="{other}"' for other in SPLITS if not _missing_folders(root, other)]
    instead = f" or use {there[0]}, which is there" if there else ""
    raise FileNotFoundError(
        f'Split "{split}" needs the folder {missing[0]}, which does not exist; {_LAYOUT}, so add'
        f" it{instead}."
    )


def _missing_folders(root: Path, split: Split) -> list[Path]:
    needed = (root / kind / _FOLDERS[split] for kind in _KINDS)
    return [folder for folder in needed if not folder.is_dir()]


def _list_pairs(images: Path, annotations: Path) -> list[tuple[str, str]]:
    """Every picture in `images` and its mask in `annotations`, in the order of the pictures."""
    pictures = {Path(name).stem: name for name in files_in(images, {".jpg"})}
    masks = {Path(name).stem: name for name in files_in(annotations, {".png"})}
    if not pictures:
        raise ValueError(f"{images} holds no .jpg pictures; {_LAYOUT}.")
    if lonely := [name for stem, name in pictures.items() if stem not in masks]:
        raise ValueError(
            f"{len(lonely)} of {len(pictures)} pictures in {images} ({some(lonely)}) have no mask"
            f" <same name>.png in {annotations}; add the masks or remove the pictures."
        )
    if lonely := [name for stem, name in masks.items() if stem not in pictures]:
        raise ValueError(
            f"{len(lonely)} of {len(masks)} masks in {annotations} ({some(lonely)}) have no picture"
            f" <same name>.jpg in {images}; add the pictures or remove the masks."
        )
    return [(name, masks[stem]) for stem, name in pictures.items()]


def _shape(size: tuple[int, int]) -> str:
    width, height = size
    return f"{height} rows and {width} columns"
