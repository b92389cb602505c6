"""From keyword arguments to environments: what the registered ids call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from canvit_gym.checkpoint_ids import ade20k_probe
from canvit_gym.envs.rollout import InitialGlimpse, Precision, Rollout
from canvit_gym.envs.single_env import CanViTEnv
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec
from canvit_gym.model.frozen import freeze
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.identity import BackboneIdentity, identify
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation
from canvit_gym.scenes.ade20k import ADE20KScenes, Fit
from canvit_gym.scenes.ade20k import Split as ADE20KSplit
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.cache import CachedScenes
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.scenes.emoji import Split as EmojiSplit
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.folder import Split as FolderSplit
from canvit_gym.tasks.base import Task
from canvit_gym.tasks.classification import Classification
from canvit_gym.tasks.segmentation import Segmentation

IMAGENET_ROOT = "IMAGENET_VAL"
ADE20K_ROOT = "ADE20K_ROOT"
"""Environment variables that name the folders where `scenes` is not given."""

OFFICIAL_SCENE_PX = 512

CACHE_BYTES = 2 * 2**30
"""What decoded pictures and masks may take: at 512 px, all 2,000 of ADE20K's validation split."""


def _classification(
    *,
    scenes: Scenes,
    backbone: str,
    probe: str | None = None,
    device: str = "cpu",
    **kwargs: Any,
) -> dict[str, Any]:
    """Keyword arguments of the environment classes; `kwargs` are those of `_assemble`."""
    model = (
        CanViTForImageClassification.from_pretrained(backbone)
        if probe is None
        else CanViTForImageClassification.from_pretrained_with_probe(backbone, probe)
    )
    task = Classification(model=freeze(model.to(device)), class_names=scenes.class_names)
    identity = identify(backbone, probe=probe)
    return _assemble(task=task, scenes=scenes, identity=identity, **kwargs)


def _segmentation(
    *,
    scenes: Scenes,
    backbone: str,
    probe: str,
    label_size_px: int,
    device: str = "cpu",
    **kwargs: Any,
) -> dict[str, Any]:
    """Keyword arguments of the environment classes; `kwargs` are those of `_assemble`."""
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe(backbone, probe)
    task = Segmentation(
        model=freeze(model.to(device)),
        class_names=scenes.mask_class_names,
        label_size_px=label_size_px,
    )
    identity = identify(backbone, probe=probe)
    return _assemble(task=task, scenes=scenes, identity=identity, **kwargs)


def _assemble(
    *,
    task: Task,
    scenes: Scenes,
    identity: BackboneIdentity,
    glimpse: GlimpseSpec,
    budget: int = 4,
    initial_glimpse: InitialGlimpse = "full_scene",
    precision: Precision = "float32",
    **kwargs: Any,
) -> dict[str, Any]:
    """`kwargs` pass through to the environment classes."""
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


def _emoji_seg(
    *,
    split: EmojiSplit = "train",
    backbone: str = "mini",
    probe: str = "mini-seg-probe",
    label_size_px: int = MINI_GLIMPSE.canvas_grid_size,
    **kwargs: Any,
) -> dict[str, Any]:
    return _segmentation(
        scenes=EmojiScenes(split=split),
        glimpse=MINI_GLIMPSE,
        backbone=backbone,
        probe=probe,
        label_size_px=label_size_px,
        **kwargs,
    )


def _imagenet(
    *,
    backbone: str,
    scenes: str | Path | None = None,
    split: FolderSplit = "all",
    upright: bool = False,
    canvas_grid_size: int = OFFICIAL_GLIMPSE.canvas_grid_size,
    scene_size_px: int = OFFICIAL_SCENE_PX,
    cache_bytes: int = CACHE_BYTES,
    **kwargs: Any,
) -> dict[str, Any]:
    root = scenes or os.environ.get(IMAGENET_ROOT)
    if not root:
        raise ValueError(
            "CanViT-IN1k-v0 was given no scenes; pass scenes='path/to/imagenet/val' (class folders "
            f"named by wnid) or set ${IMAGENET_ROOT}, or try CanViT-Emoji-v0, which needs none."
        )
    folder = FolderScenes(
        root, size_px=scene_size_px, split=split, classes="imagenet", upright=upright
    )
    return _classification(
        scenes=_cached(folder, cache_bytes=cache_bytes),
        glimpse=replace(OFFICIAL_GLIMPSE, canvas_grid_size=canvas_grid_size),
        backbone=backbone,
        **kwargs,
    )


def _ade20k(
    *,
    backbone: str,
    probe: str | None = None,
    scenes: str | Path | None = None,
    split: ADE20KSplit = "train",
    fit: Fit = "squish",
    canvas_grid_size: int = 64,
    scene_size_px: int = OFFICIAL_SCENE_PX,
    label_size_px: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    **kwargs: Any,
) -> dict[str, Any]:
    root = scenes or os.environ.get(ADE20K_ROOT)
    if not root:
        raise ValueError(
            "CanViT-ADE20K-v0 was given no scenes; pass scenes='path/to/ADEChallengeData2016' "
            f"(with images and annotations) or set ${ADE20K_ROOT}, or try CanViT-EmojiSeg-v0, "
            "which needs none."
        )
    folder = ADE20KScenes(root, size_px=scene_size_px, split=split, fit=fit)
    return _segmentation(
        scenes=_cached(folder, cache_bytes=cache_bytes),
        glimpse=replace(OFFICIAL_GLIMPSE, canvas_grid_size=canvas_grid_size),
        backbone=backbone,
        probe=ade20k_probe(canvas_grid_size) if probe is None else probe,
        label_size_px=scene_size_px if label_size_px is None else label_size_px,
        **kwargs,
    )


def _cached(scenes: Scenes, *, cache_bytes: int) -> Scenes:
    if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < 0:
        raise ValueError(
            f"cache_bytes is {cache_bytes!r}; give how many bytes of decoded pictures to keep, or "
            "0 to decode each anew."
        )
    return CachedScenes(scenes, max_bytes=cache_bytes) if cache_bytes else scenes


def emoji_env(**kwargs: Any) -> CanViTEnv:
    return _single(_emoji, _classification, kwargs)


def emoji_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_emoji, _classification, num_envs, kwargs)


def emoji_seg_env(**kwargs: Any) -> CanViTEnv:
    return _single(_emoji_seg, _segmentation, kwargs)


def emoji_seg_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_emoji_seg, _segmentation, num_envs, kwargs)


def imagenet_env(**kwargs: Any) -> CanViTEnv:
    return _single(_imagenet, _classification, kwargs)


def imagenet_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_imagenet, _classification, num_envs, kwargs)


def ade20k_env(**kwargs: Any) -> CanViTEnv:
    return _single(_ade20k, _segmentation, kwargs)


def ade20k_vector_env(num_envs: int = 1, **kwargs: Any) -> CanViTVectorEnv:
    return _vector(_ade20k, _segmentation, num_envs, kwargs)


Build = Callable[..., dict[str, Any]]


def _single(build: Build, with_task: Build, kwargs: dict[str, Any]) -> CanViTEnv:
    _require_known(kwargs, _keywords(build, with_task) - {"autoreset_mode"})
    return CanViTEnv(**build(**kwargs))


def _vector(
    build: Build, with_task: Build, num_envs: int, kwargs: dict[str, Any]
) -> CanViTVectorEnv:
    _require_known(kwargs, _keywords(build, with_task))
    return CanViTVectorEnv(num_envs=num_envs, **build(**kwargs))


def _keywords(build: Build, with_task: Build) -> set[str]:
    """What a user may give: all that these functions do not supply to each other."""
    functions = (with_task, _assemble, CanViTVectorEnv)
    passed_on = {name for function in functions for name in signature(function).parameters}
    supplied = {"scenes", "glimpse", "rollout", "num_envs", "task", "identity"}
    return (passed_on - supplied | set(signature(build).parameters)) - {"kwargs"}


def _require_known(kwargs: dict[str, Any], accepted: set[str]) -> None:
    if unknown := sorted(set(kwargs) - accepted):
        raise ValueError(
            f"Unknown keyword {', '.join(map(repr, unknown))}; this environment accepts "
            f"{', '.join(sorted(accepted))}."
        )
