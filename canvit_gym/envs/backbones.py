"""Which CanViT the ImageNet environment looks with, and how a checkpoint looks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym

from canvit_gym.checkpoint_ids import AUTO, IN1K_FINETUNED, MINI_IN1K, OFFICIAL
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec
from canvit_gym.hub import HUB_ROOT
from canvit_gym.model.checkpoints import (
    EMBEDDED,
    CheckpointNotFound,
    resolve_checkpoint,
    training_record,
)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How a model was taught to look: scenes of how many pixels a side, and what a glimpse is."""

    scene_size_px: int
    glimpse: GlimpseSpec


OFFICIAL_LOOKS = Looks(scene_size_px=512, glimpse=OFFICIAL_GLIMPSE)
MINI_LOOKS = Looks(scene_size_px=128, glimpse=MINI_GLIMPSE)

_RECORDED = {
    "scene_size_px": int, "glimpse_size_px": int, "canvas_grid_size": int, "min_scale": float
}  # fmt: skip


def looks_of(backbone: Any) -> Looks:
    """How a checkpoint looks: as the training that it records did, or as the official ones, which
    record none, and models in memory do."""
    if not isinstance(backbone, str | os.PathLike) or str(backbone) == IN1K_FINETUNED:
        return OFFICIAL_LOOKS
    if str(backbone) in EMBEDDED:
        return MINI_LOOKS
    record = training_record(backbone if isinstance(backbone, str) else Path(backbone))
    values: list[Any] = [record.get(name) for name in _RECORDED]
    if [type(value) for value in values] != list(_RECORDED.values()):
        return OFFICIAL_LOOKS
    scene_size_px, *glimpse = values
    names = list(_RECORDED)[1:]
    return Looks(
        scene_size_px=scene_size_px, glimpse=GlimpseSpec(**dict(zip(names, glimpse, strict=True)))
    )


def imagenet_backbone(backbone: Any) -> Any:
    """The checkpoint, or model in memory, that `backbone` stands for.

    "official" is the fine-tuned CanViT-B; "auto" too, where it is cached, in $CANVIT_HUB_ROOT, or
    can be downloaded, and otherwise the embedded mini, of which a UserWarning tells. Anything else
    stands for itself.
    """
    if not isinstance(backbone, str) or backbone not in (AUTO, OFFICIAL):
        return backbone
    if backbone == OFFICIAL:
        return IN1K_FINETUNED
    if (reason := _why_not_official()) is None:
        return IN1K_FINETUNED
    warnings.warn(
        f"The official checkpoint {IN1K_FINETUNED} is not to be had ({reason}), so the embedded"
        f" {MINI_IN1K} looks in its place, a small CanViT that knows far less; give"
        f" backbone={OFFICIAL!r} to insist on the official one, or backbone={MINI_IN1K!r} to"
        " choose this one without a warning.",
        stacklevel=2,
    )
    return MINI_IN1K


def settled(env_id: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of an environment whose results are to last: a backbone "auto" or
    "official", by default too, is replaced by the official checkpoint's own name, so that it is
    recorded.

    Raises CheckpointNotFound where that is not to be had: nothing takes its place unasked.
    """
    kwargs = dict(env_kwargs)
    backbone = kwargs.get("backbone", gym.spec(env_id).kwargs.get("backbone"))
    if not isinstance(backbone, str) or backbone not in (AUTO, OFFICIAL):
        return kwargs
    if (reason := _why_not_official()) is not None:
        raise CheckpointNotFound(
            f"The official checkpoint {IN1K_FINETUNED} is not to be had ({reason}), and results of"
            f" another one are to be asked for; give --env-kwargs backbone={MINI_IN1K} for the"
            f" embedded one, a checkpoint's directory, or set {HUB_ROOT} to a folder that holds it."
        )
    return {**kwargs, "backbone": IN1K_FINETUNED}


def _why_not_official() -> str | None:
    """Why the official checkpoint can not be had; None where it is there, by now."""
    return _ask(os.environ.get(HUB_ROOT), os.environ.get("HF_HOME"))


@lru_cache(
    maxsize=8
)  # asking an unreachable hub takes seconds, and environments are made in dozens
def _ask(hub_root: str | None, cache: str | None) -> str | None:
    try:
        directory: Path = resolve_checkpoint(IN1K_FINETUNED)
    except CheckpointNotFound as error:
        cause = "" if error.__cause__ is None else f", {type(error.__cause__).__name__}"
        where = f"in {hub_root}" if hub_root else "cached"
        return f"neither {where} nor on the Hugging Face hub{cause}"
    missing = [n for n in ("config.json", "model.safetensors") if not (directory / n).is_file()]
    return f"{directory} has no {missing[0]}" if missing else None
