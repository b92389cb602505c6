"""The album: photographs that the package brings, each of one of ImageNet's classes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import get_args

from canvit_gym.errors import require_choice
from canvit_gym.files import read_json
from canvit_gym.preprocess import read_picture
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.imagenet import CLASS_NAMES
from canvit_gym.scenes.stored import Split, StoredScenes, split_of

ALBUM = "album"
"""What `scenes=` takes for it."""


class AlbumScenes(StoredScenes):
    """Thirty-two photographs of as many ImageNet classes, at most 256 px a side as stored.

    For trying things out without a data set: far too few to judge anything by. None is from
    ImageNet; `assets/album` has their authors and licences.

    Splits "train" and "test" part them by a hash of their names, as those of `FolderScenes`.
    """

    class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(self, *, size_px: int = 256, split: Split = "all") -> None:
        require_choice("split", split, get_args(Split))
        super().__init__(root=Path(str(files("canvit_gym") / "assets" / "album")), size_px=size_px)
        self.split = split
        self._photographs = tuple(
            (name, label)
            for name, label in _listed(self.root)
            if split in ("all", split_of(self._named(name)))
        )

    def __len__(self) -> int:
        return len(self._photographs)

    def name_of(self, index: int) -> str:
        return self._named(self._photographs[index][0])

    @staticmethod
    def _named(name: str) -> str:
        return f"album/{name}"

    def _read(self, index: int) -> Scene:
        name, label = self._photographs[index]
        return Scene(
            name=self._named(name),
            picture=read_picture(self.root / f"{name}.jpg", self.size_px),
            label=label,
            mask=None,
            target=None,
        )


@cache
def _listed(folder: Path) -> tuple[tuple[str, int], ...]:
    """Name and label of each photograph."""
    hint = "install canvit-gym again"
    listed = read_json(folder / "album.json", fields={"photographs": list}, hint=hint)
    return tuple((row["name"], row["label"]) for row in listed["photographs"])
