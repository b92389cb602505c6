"""What a teacher is: a frozen network whose features a CanViT learns to predict."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class TeacherNotFound(FileNotFoundError):
    """There is no such teacher, or its weights can not be had here."""


class TeacherFeatures(NamedTuple):
    """patches: float32 [B, G^2, D], row-major. cls: float32 [B, D], one for the whole picture."""

    patches: Tensor
    cls: Tensor


class Teacher(Protocol):
    """A frozen network in eval mode, which normalises pictures its own way.

    name: what loads it again (`load_teacher`), and what feature shards record.
    dim: D, the width of its features.
    classifier: weight float32 [n_classes, D] and bias [n_classes] that read `cls`, or None where it
        brings none: what `CanViTForImageClassification.fuse` takes as the probe.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None: ...

    def patch_grid(self, size_px: int) -> int:
        """G for pictures of this side; raises ValueError where they are no whole patches."""
        ...

    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        """Returns the features of pictures uint8 [B, S, S, 3], RGB, on the pictures' device.

        Autocast, where the caller asks for it, is the network's; what comes back is float32.
        """
        ...


def grid_of_patches(name: str, *, size_px: int, patch_size_px: int) -> int:
    """Side of the patch grid of a picture; raises ValueError where it is no whole number."""
    if size_px < patch_size_px or size_px % patch_size_px:
        raise ValueError(
            f"The picture size is {size_px} px, but {name} has a feature for every "
            f"{patch_size_px} px; give a positive multiple of {patch_size_px}."
        )
    return size_px // patch_size_px
