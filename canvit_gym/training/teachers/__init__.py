"""Frozen networks whose features a CanViT learns to predict: a file for each family, one table."""

from __future__ import annotations

import re
from importlib import import_module
from typing import NamedTuple, cast

import torch

from canvit_gym.errors import with_hint
from canvit_gym.training.teachers.base import Teacher, TeacherFeatures, TeacherNotFound

__all__ = ["FAMILIES", "Family", "Teacher", "TeacherFeatures", "TeacherNotFound", "load_teacher"]


class Family(NamedTuple):
    """names: a pattern of the names that it loads. module: the file whose `load(name, device=)`
    does. shown: its names, for people."""

    names: str
    module: str
    shown: str


FAMILIES = (
    Family("efficientnet-lite0", "efficientnet_lite0", "'efficientnet-lite0'"),
    Family("timm/.+", "timm_vit", "'timm/NAME' for any ViT of timm"),
    Family(
        ".*/.+",
        "dinov3",
        "a DINOv3 by hub id ('facebook/dinov3-vitb16-pretrain-lvd1689m') or directory (./NAME)",
    ),
)
"""In the order in which a name is looked up."""


def load_teacher(name: str, *, device: torch.device | str = "cpu") -> Teacher:
    """The teacher of this name, frozen, in eval mode, on `device`.

    Raises ValueError where no family has such names, ModuleNotFoundError with a command that
    installs what the family needs, and TeacherNotFound where its weights can not be had.
    """
    for family in FAMILIES:
        if re.fullmatch(family.names, name):
            try:
                module = import_module(f"{__name__}.{family.module}")
                return cast(Teacher, module.load(name, device=device))
            except ModuleNotFoundError as error:
                raise with_hint(error, what=f"The teacher {name!r}") from error
    raise ValueError(
        f"teacher is {name!r}; choose {', '.join(family.shown for family in FAMILIES)}."
    )
