"""From keyword arguments to environments: what the registered ids call."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from canvit_gym.envs.rollout import InitialGlimpse, Precision, Rollout
from canvit_gym.envs.single_env import CanViTEnv
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.identity import BackboneIdentity, identify
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.scenes.emoji import Split as EmojiSplit
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.folder import Split as FolderSplit
from canvit_gym.tasks.classification import Classification

IMAGENET_ROOT = "IMAGENET_VAL"
"""Environment variable that names the ImageNet folder where `scenes` is not given."""


def _classification(
    *,
    scenes: Scenes,
    glimpse: GlimpseSpec,
    backbone: str,
    probe: str | None = None,
    device: str = "cpu",
    budget: int = 4,
    initial_glimpse: InitialGlimpse = "full_scene",
    precision: Precision = "float32",
    **kwargs: Any,
) -> dict[str, Any]:
    """Keyword arguments of the environment classes; `kwargs` pass through to them."""
    model = (
        CanViTForImageClassification.from_pretrained(backbone)
        if probe is None
        else CanViTForImageClassification.from_pretrained_with_probe(backbone, probe)
    )
    identity: BackboneIdentity = identify(backbone, probe=probe)
    task = Classification(model=model.to(device), class_names=scenes.class_names)
    rollout = Rollout(
        task=task,
        glimpse=glimpse,
        budget=budget,
        initial_glimpse=initial_glimpse,
        precision=precision,
    )
    return {"scenes": scenes, "rollout": rollout, "backbone": identity, **kwargs}


def _emoji(*, split: EmojiSplit = "train", backbone: str = "mini", **kwargs: Any) -> dict[str, Any]:
    return _classification(
        scenes=EmojiScenes(split=split), glimpse=MINI_GLIMPSE, backbone=backbone, **kwargs
    )


def _imagenet(
    *,
    backbone: str,
    scenes: str | Path | None = None,
    split: FolderSplit = "all",
    canvas_grid_size: int = OFFICIAL_GLIMPSE.canvas_grid_size,
    scene_size_px: int = 512,
    **kwargs: Any,
) -> dict[str, Any]:
    root = scenes or os.environ.get(IMAGENET_ROOT)
    if not root:
        raise ValueError(
            "CanViT-IN1k-v0 was given no scenes; pass scenes='path/to/imagenet/val' (class folders "
            f"named by wnid) or set ${IMAGENET_ROOT}, or try CanViT-Emoji-v0, which needs none."
        )
    glimpse = GlimpseSpec(
        glimpse_size_px=OFFICIAL_GLIMPSE.glimpse_size_px,
        canvas_grid_size=canvas_grid_size,
        min_scale=OFFICIAL_GLIMPSE.min_scale,
    )
    folder = FolderScenes(root, size_px=scene_size_px, split=split)
    return _classification(scenes=folder, glimpse=glimpse, backbone=backbone, **kwargs)


def emoji_env(**kwargs: Any) -> CanViTEnv:
    return _single(_emoji, kwargs)


def emoji_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_emoji, num_envs, kwargs)


def imagenet_env(**kwargs: Any) -> CanViTEnv:
    return _single(_imagenet, kwargs)


def imagenet_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_imagenet, num_envs, kwargs)


def _single(build: Callable[..., dict[str, Any]], kwargs: dict[str, Any]) -> CanViTEnv:
    _require_known(kwargs, _keywords(build) - {"autoreset_mode"})
    return CanViTEnv(**build(**kwargs))


def _vector(
    build: Callable[..., dict[str, Any]], num_envs: int, kwargs: dict[str, Any]
) -> CanViTVectorEnv:
    _require_known(kwargs, _keywords(build))
    return CanViTVectorEnv(num_envs=num_envs, **build(**kwargs))


def _keywords(build: Callable[..., dict[str, Any]]) -> set[str]:
    """What a user may give: all that `build` does not supply itself."""
    functions = (_classification, CanViTVectorEnv)
    passed_on = {name for function in functions for name in signature(function).parameters}
    supplied = {"scenes", "glimpse", "rollout", "num_envs"}
    return (passed_on - supplied | set(signature(build).parameters)) - {"kwargs"}


def _require_known(kwargs: dict[str, Any], accepted: set[str]) -> None:
    if unknown := sorted(set(kwargs) - accepted):
        raise ValueError(
            f"Unknown keyword {', '.join(map(repr, unknown))}; this environment accepts "
            f"{', '.join(sorted(accepted))}."
        )
