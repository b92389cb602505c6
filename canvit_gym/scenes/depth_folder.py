"""Scenes from a folder of pictures and depth maps, such as those that are made of NYU Depth v2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from canvit_gym.errors import require_choice
from canvit_gym.preprocess import (
    MAX_PIXELS,
    Fit,
    PictureError,
    PictureStorageError,
    UnreadablePictureError,
    decode,
    open_picture,
    preprocess_picture,
    printable,
    require_lossless,
    require_size_px,
    to_square,
)
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import FileScenes, files_in
from canvit_gym.scenes.stored import some, split_of

Split = Literal["all", "train", "test"]

_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
_DEPTHS = frozenset({".png", ".npy"})
_LAYOUT = (
    "accepted is <folder>/rgb/<name>.jpg (or .png) with <folder>/depth/<name>.png (16-bit, in"
    " millimetres) or <name>.npy (in metres)"
)


class DepthFolderScenes(FileScenes):
    """The pictures of `root`/rgb with the depth maps of the same names in `root`/depth.

    **Depth.** A 16-bit greyscale PNG holds levels of `metres_per_level` (NYU's are millimetres,
    KITTI's 1 / 256 metre), and 0 where nothing was measured. A `.npy` file holds floats [H, W] in
    metres, and 0, NaN or infinity where nothing was measured; it is read without pickle. Scenes
    have metres, and NaN where unknown. Each value is that of the nearest pixel: none is mixed.

    **Square.** `fit="crop"` keeps the aspect and the centre of picture and depth, "squish" takes
    all of them without their aspect. The EXIF orientation is not applied, because depth has none.

    **Splits.** "train" and "test" part the scenes four to one by a hash of the picture's name.

    Sizes and kinds are checked at construction; files damaged behind an intact header are replaced,
    as `FileScenes` says. A scene as a whole has no class: `Scene.label` is -1.
    """

    class_names: tuple[str, ...] = ()
    mask_class_names: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        *,
        size_px: int = 512,
        split: Split = "all",
        fit: Fit = "crop",
        metres_per_level: float = 0.001,
    ) -> None:
        require_choice("split", split, get_args(Split))
        require_choice("fit", fit, get_args(Fit))
        if not (math.isfinite(metres_per_level) and metres_per_level > 0):
            raise ValueError(
                f"metres_per_level is {metres_per_level!r}; give what one level of a 16-bit PNG"
                " means in metres, such as 0.001."
            )
        size_px = require_size_px(size_px)
        self.split, self.fit, self.metres_per_level = split, fit, float(metres_per_level)
        root = Path(root).expanduser()
        pairs = [
            (f"rgb/{picture}", f"depth/{depth}")
            for picture, depth in _list_pairs(root)
            if split in ("all", split_of(f"rgb/{picture}"))
        ]
        if not pairs:
            raise ValueError(
                f'None of the pictures in {printable(root)} falls into split "{split}"; add'
                ' pictures or use split="all".'
            )
        self.depth_names = tuple(depth for _, depth in pairs)
        super().__init__(root=root, names=[picture for picture, _ in pairs], size_px=size_px)

    def _check(self, index: int) -> None:
        picture = self.root / self.names[index]
        with open_picture(picture) as image:
            size = image.size
        with _open_depth(self.root / self.depth_names[index]) as depth:
            found = depth.size if isinstance(depth, Image.Image) else depth.shape[::-1]
            if found != size:
                raise PictureError(
                    f"it has {found[1]} rows and {found[0]} columns but its picture"
                    f" {printable(picture)} has {size[1]} and {size[0]}; save both in one size"
                )

    def _read(self, index: int) -> Scene:
        with open_picture(self.root / self.names[index]) as image:
            picture = preprocess_picture(image, self.size_px, fit=self.fit)
        with _open_depth(self.root / self.depth_names[index]) as depth:
            metres = self._metres(depth)
        square = to_square(
            Image.fromarray(metres), self.size_px, fit=self.fit, resample=Image.Resampling.NEAREST
        )
        return Scene(
            name=self.names[index],
            picture=picture,
            label=-1,
            mask=None,
            target=None,
            depth=np.array(square),
        )

    def _metres(self, depth: Image.Image | np.ndarray) -> np.ndarray:
        """float32 [H, W], NaN where unknown."""
        if isinstance(depth, Image.Image):
            decode(depth)
            metres = np.asarray(depth).astype(np.float32) * np.float32(self.metres_per_level)
        else:
            metres = np.array(depth, dtype=np.float32)
        if (metres < 0).any():
            raise PictureError("it holds negative depths; save metres, and 0 where unknown")
        metres[~np.isfinite(metres) | (metres == 0)] = np.nan
        return metres


@contextmanager
def _open_depth(path: Path) -> Iterator[Image.Image | np.ndarray]:
    """The depth map with only its header read; errors are those of `open_picture`."""
    if path.suffix.lower() != ".npy":
        with open_picture(path) as image:
            require_lossless(image)
            if not image.mode.startswith("I"):
                raise PictureError(
                    f"its Pillow mode is {image.mode}, but depth is 16-bit greyscale; save"
                    " millimetres as 16-bit PNG, or metres as .npy"
                )
            yield image
        return
    try:
        yield _map_array(path)
    except PictureError as error:
        raise UnreadablePictureError(f"{printable(path)} can not be used: {error}.") from error


def _map_array(path: Path) -> np.ndarray:
    """Floats [H, W] of a .npy file, mapped: its values are read when they are used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno is None:
            raise PictureError("it is no whole .npy file; check or replace it") from error
        raise PictureStorageError(
            f"{printable(path)} can not be read: {error.strerror}; check that the storage is still"
            " there."
        ) from error
    except Exception as error:  # numpy's parser raises ValueError, SyntaxError, EOFError, ...
        raise PictureError("it is no whole .npy file of numbers; check or replace it") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        kind = (
            f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        )
        raise PictureError(f"it holds {kind}, but depth is floats [rows, columns] in metres")
    if not 0 < array.size <= MAX_PIXELS:
        raise PictureError(f"it has {array.size} values, but must have 1 to {MAX_PIXELS}")
    return array


def _list_pairs(root: Path) -> list[tuple[str, str]]:
    """Every picture in `root`/rgb and its depth in `root`/depth, in the order of the pictures."""
    for folder in (root, root / "rgb", root / "depth"):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {printable(folder)}; {_LAYOUT}.")
    pictures, depths = (
        {Path(name).stem: name for name in files_in(root / kind, suffixes)}
        for kind, suffixes in (("rgb", _PICTURES), ("depth", _DEPTHS))
    )
    for kind, suffixes, named in (("rgb", _PICTURES, pictures), ("depth", _DEPTHS, depths)):
        if len(names := files_in(root / kind, suffixes)) > len(named):
            twice = sorted(set(names) - set(named.values()))
            raise ValueError(
                f"{printable(root / kind)} holds two files of one name but for its ending"
                f" ({some(twice)}); remove one of each."
            )
    if not pictures:
        raise ValueError(f"{printable(root / 'rgb')} holds no pictures; {_LAYOUT}.")
    if lonely := sorted(pictures.keys() ^ depths.keys()):
        raise ValueError(
            f"{len(lonely)} of the names in {printable(root)} ({some(lonely)}) have a picture or a"
            f" depth map but not both; {_LAYOUT}, so add what is missing or remove the others."
        )
    return [(name, depths[stem]) for stem, name in pictures.items()]
