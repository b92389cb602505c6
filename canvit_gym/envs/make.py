"""From keyword arguments to environments: what the registered ids call.

An id is a function from options to a `Setting`, made into entry points by `EnvFactory`. Packages of
one's own do the same:

    def my_setting(**options):
        return naming(scenes=MyScenes(options.get("split", "train")), glimpse=..., **options)

    my_env = EnvFactory("MyEnv-v0", my_setting, EnvOptions)
    my_vector_env = my_env.vector
    gymnasium.register("MyEnv-v0", entry_point="my_package:my_env",
                       vector_entry_point="my_package:my_vector_env")
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from canvit_gym.ambient import plain_torch
from canvit_gym.checkpoint_ids import AUTO, FLAGSHIP, OFFICIAL, ade20k_probe
from canvit_gym.envs.backbones import imagenet_backbone, looks_of
from canvit_gym.envs.options import (
    ADE20KOptions,
    EnvOptions,
    ImageNetOptions,
    PlacesOptions,
    checked,
    names,
    require_known,
)
from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.single_env import CanViTEnv
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec
from canvit_gym.model.canvas_probe import CanViTWithProbe
from canvit_gym.model.frozen import freeze
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.identity import BackboneIdentity, identify
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.album import ALBUM, AlbumScenes
from canvit_gym.scenes.base import Scenes, require_scenes
from canvit_gym.scenes.cache import CachedScenes
from canvit_gym.scenes.depth_folder import DepthFolderScenes
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.scenes.imagenette import NAME as IMAGENETTE
from canvit_gym.scenes.imagenette import imagenette
from canvit_gym.scenes.layouts import open_scenes
from canvit_gym.scenes.stored import StoredScenes
from canvit_gym.tasks.base import Task
from canvit_gym.tasks.classification import Classification
from canvit_gym.tasks.depth import CanViTForDepth, Depth
from canvit_gym.tasks.segmentation import Segmentation

IMAGENET_ROOT = "IMAGENET_VAL"
ADE20K_ROOT = "ADE20K_ROOT"
"""Environment variables that name the folders where `scenes` is not given."""

OFFICIAL_SCENE_PX = 512

CACHE_BYTES = 2 * 2**30
"""Bytes that decoded pictures and masks may take: at 512 px, all 2,000 of ADE20K's validation
split."""

_ROLLOUT = ("budget", "initial_glimpse", "precision")
_ENV = (
    "action", "cell_scales", "stop_action", "observation", "reward", "glimpse_cost",
    "autoreset_mode", "output", "draw_ahead", "render_mode",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting that an id stands for: a task on scenes, the weights it looks with, and what a
    glimpse is."""

    scenes: Scenes
    task: Task
    backbone: BackboneIdentity
    glimpse: GlimpseSpec


class EnvFactory:
    """Makes environments of one id from keyword arguments: an entry point of `gym.register`.

    options: the TypedDict of the keyword arguments that the id takes. `vector` is the entry point
    of the vector environment.
    """

    # Gymnasium wraps environments for render_mode="human" and "rgb_array_list" by what this says.
    metadata = CanViTEnv.metadata

    def __init__(
        self, env_id: str, setting: Callable[..., Setting], options: type[Any] = EnvOptions
    ) -> None:
        self.env_id, self.setting, self.options = env_id, setting, names(options)

    def __call__(self, **options: Any) -> CanViTEnv:
        require_known(options, self.options - {"autoreset_mode"}, env=self.env_id)
        return CanViTEnv(**self._parts(options))

    def vector(self, num_envs: int = 1, **options: Any) -> CanViTVectorEnv:
        """`num_envs` environments side by side."""
        require_known(options, self.options, env=self.env_id)
        return CanViTVectorEnv(num_envs=num_envs, **self._parts(options))

    @plain_torch
    def _parts(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the environment classes."""
        options = checked(options)
        outer = {name: options[name] for name in (*_ROLLOUT, *_ENV) if name in options}
        setting = self.setting(**{k: v for k, v in options.items() if k not in outer})
        rollout = Rollout(
            task=setting.task,
            glimpse=setting.glimpse,
            **{name: outer.pop(name) for name in _ROLLOUT if name in outer},
        )
        return {"scenes": setting.scenes, "rollout": rollout, "backbone": setting.backbone, **outer}


def naming(
    *,
    scenes: Scenes,
    glimpse: GlimpseSpec,
    backbone: Any,
    probe: Any = None,
    device: str = "cpu",
) -> Setting:
    """Name scenes: the belief is a distribution over `scenes.class_names`.

    backbone, probe: names, directories or models in memory (a CanViTForImageClassification).

    Raises ValueError where scenes that know their labels have some without one.
    """
    labels = getattr(scenes, "labels", ()) if isinstance(scenes, StoredScenes) else ()
    unlabelled = int((np.asarray(labels) < 0).sum())
    if unlabelled:
        raise ValueError(
            f"{unlabelled} of the {len(scenes)} scenes given have no label, so nothing can be named"
            " right on them; give scenes whose pictures all have one (labels='required')."
        )
    if probe is not None:
        model = CanViTForImageClassification.from_pretrained_with_probe(
            _name("backbone", backbone), _name("probe", probe)
        )
    else:
        model = _model("backbone", backbone, CanViTForImageClassification)
    task = Classification(model=freeze(model.to(device)), class_names=scenes.class_names)
    identity = identify(backbone, probe=probe)
    return Setting(scenes=scenes, task=task, backbone=identity, glimpse=glimpse)


def labelling(
    *,
    scenes: Scenes,
    glimpse: GlimpseSpec,
    backbone: Any,
    probe: Any,
    label_size_px: int,
    device: str = "cpu",
) -> Setting:
    """Label places: the belief is a map of class logits over `scenes.mask_class_names`.

    backbone, probe: names or directories; or backbone a CanViTForSemanticSegmentation in memory,
    which has its probe already, with probe=None.
    """
    model, probe = _with_probe(CanViTForSemanticSegmentation, backbone=backbone, probe=probe)
    task = Segmentation(
        model=freeze(model.to(device)),
        class_names=scenes.mask_class_names,
        label_size_px=label_size_px,
    )
    identity = identify(backbone, probe=probe)
    return Setting(scenes=scenes, task=task, backbone=identity, glimpse=glimpse)


def measuring(
    *,
    scenes: Scenes,
    glimpse: GlimpseSpec,
    backbone: Any,
    probe: Any,
    label_size_px: int,
    device: str = "cpu",
) -> Setting:
    """Measure depth: the belief is a map of log depths.

    backbone, probe: names or directories; or backbone a CanViTForDepth in memory, which has its
    probe already, with probe=None.
    """
    model, probe = _with_probe(CanViTForDepth, backbone=backbone, probe=probe)
    task = Depth(model=freeze(model.to(device)), label_size_px=label_size_px)
    identity = identify(backbone, probe=probe)
    return Setting(scenes=scenes, task=task, backbone=identity, glimpse=glimpse)


def own_scenes(scenes: Any, *, split: str | None, size_px: int | None = None) -> Scenes | None:
    """The scenes in memory that `scenes` stands for, or None where it is a path or nothing.

    Raises ValueError where the split is not among them, where one object is to serve a split, which
    it can not tell, and where it is no source of scenes or of another size.
    """
    if scenes is None or isinstance(scenes, str | os.PathLike):
        return None
    if isinstance(scenes, Mapping):
        if not scenes:
            raise ValueError('scenes is an empty dict; give {"train": scenes, "test": scenes}.')
        chosen = next(iter(scenes)) if split is None else split
        if chosen not in scenes:
            raise ValueError(
                f"split is {split!r}, but scenes has {', '.join(map(repr, scenes))}; choose one of "
                "these."
            )
        found = scenes[chosen]
    elif split is not None:
        raise ValueError(
            f"split is {split!r}, but scenes is one object, which does not say what is of which "
            'split; give {"train": scenes, "test": others}.'
        )
    else:
        found = scenes
    require_scenes(found)
    if size_px is not None and found.size_px != size_px:
        raise ValueError(
            f"scene_size_px is {size_px}, but the scenes given have {found.size_px} px; leave "
            "scene_size_px out, or give scenes of that size."
        )
    own: Scenes = found
    return own


# -- the ids ---------------------------------------------------------------------------------------


def _emoji_scenes(scenes: Any, split: str | None) -> Scenes:
    own = own_scenes(scenes, split=split)
    if own is not None:
        return own
    if scenes is not None:
        size_px = EmojiScenes.size_px
        return open_scenes(scenes, size_px=size_px, split=split, labels="required")  # type: ignore[arg-type]
    return EmojiScenes(split=split or "train")  # type: ignore[arg-type]  # it checks the name


def _emoji(
    *, split: str | None = None, backbone: Any = "mini", scenes: Any = None, **options: Any
) -> Setting:
    source = _emoji_scenes(scenes, split)
    return naming(scenes=source, glimpse=MINI_GLIMPSE, backbone=backbone, **options)


def _emoji_seg(
    *,
    split: str | None = None,
    backbone: Any = "mini",
    probe: Any = "mini-seg-probe",
    scenes: Any = None,
    label_size_px: int = MINI_GLIMPSE.canvas_grid_size,
    **options: Any,
) -> Setting:
    return labelling(
        scenes=_emoji_scenes(scenes, split),
        glimpse=MINI_GLIMPSE,
        backbone=backbone,
        probe=probe,
        label_size_px=label_size_px,
        **options,
    )


def _emoji_depth(
    *,
    split: str | None = None,
    backbone: Any = "mini",
    probe: Any = "mini-depth-probe",
    scenes: Any = None,
    label_size_px: int = MINI_GLIMPSE.canvas_grid_size,
    **options: Any,
) -> Setting:
    source = own_scenes(scenes, split=split)
    if source is None and scenes is not None:
        size_px = EmojiScenes.size_px
        source = DepthFolderScenes(scenes, size_px=size_px, split=split or "all")  # type: ignore[arg-type]
    elif source is None:
        source = EmojiScenes(split=split or "train", depth=True)  # type: ignore[arg-type]
    return measuring(
        scenes=source,
        glimpse=MINI_GLIMPSE,
        backbone=backbone,
        probe=probe,
        label_size_px=label_size_px,
        **options,
    )


def _imagenet(
    *,
    backbone: Any = AUTO,
    probe: Any = None,
    scenes: Any = None,
    split: str | None = None,
    upright: bool = False,
    canvas_grid_size: int | None = None,
    scene_size_px: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    **options: Any,
) -> Setting:
    if probe is not None and backbone in (AUTO, OFFICIAL):
        raise ValueError(
            f"probe is {probe!r}, which is fused into a pretrained CanViT, but backbone is"
            f" {backbone!r}, which is fine-tuned already; give backbone={FLAGSHIP!r}."
        )
    backbone = imagenet_backbone(backbone)
    looks = looks_of(backbone)
    source = own_scenes(scenes, split=split, size_px=scene_size_px)
    if source is None:
        pictures = _imagenet_pictures(
            scenes or os.environ.get(IMAGENET_ROOT),
            size_px=looks.scene_size_px if scene_size_px is None else scene_size_px,
            split=split,
            upright=upright,
        )
        source = _cached(pictures, cache_bytes=cache_bytes)
    grid = looks.glimpse.canvas_grid_size if canvas_grid_size is None else canvas_grid_size
    glimpse = replace(looks.glimpse, canvas_grid_size=grid)
    return naming(scenes=source, glimpse=glimpse, backbone=backbone, probe=probe, **options)


def _imagenet_pictures(scenes: Any, *, size_px: int, split: Any, upright: bool) -> Scenes:
    """Pictures of ImageNet's classes: of a folder or tar file, Imagenette, or the album."""
    if not scenes or scenes == ALBUM:
        album = AlbumScenes(size_px=size_px, split=split or "all")
        if not scenes:
            warnings.warn(
                f"CanViT-IN1k-v0 was given no scenes, so it shows the album that it brings,"
                f" {len(album)} photographs, far too few to judge anything by; pass"
                f" scenes='path/to/imagenet/val' or set ${IMAGENET_ROOT}, or scenes={ALBUM!r} to"
                " choose the album.",
                stacklevel=2,
            )
        return album
    root = imagenette(size_px=size_px) if scenes == IMAGENETTE else scenes
    return open_scenes(
        root, size_px=size_px, split=split, classes="imagenet", labels="required", upright=upright
    )


def _ade20k(
    *,
    backbone: Any,
    probe: Any = None,
    scenes: Any = None,
    split: str | None = None,
    fit: Any = "squish",
    canvas_grid_size: int = 64,
    scene_size_px: int | None = None,
    label_size_px: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    **options: Any,
) -> Setting:
    source = own_scenes(scenes, split=split, size_px=scene_size_px)
    if source is None:
        root = scenes or os.environ.get(ADE20K_ROOT)
        if not root:
            raise ValueError(
                "CanViT-ADE20K-v0 was given no scenes; pass scenes='path/to/ADEChallengeData2016' "
                f"(with images and annotations) or set ${ADE20K_ROOT}, or try CanViT-EmojiSeg-v0, "
                "which needs none."
            )
        folder = ADE20KScenes(
            root,
            size_px=OFFICIAL_SCENE_PX if scene_size_px is None else scene_size_px,
            split=split or "train",  # type: ignore[arg-type]  # it checks the name
            fit=fit,
        )
        source = _cached(folder, cache_bytes=cache_bytes)
    return labelling(
        scenes=source,
        glimpse=replace(OFFICIAL_GLIMPSE, canvas_grid_size=canvas_grid_size),
        backbone=backbone,
        probe=ade20k_probe(canvas_grid_size) if probe is None else probe,
        label_size_px=source.size_px if label_size_px is None else label_size_px,
        **options,
    )


emoji = EnvFactory("CanViT-Emoji-v0", _emoji)
emoji_vector = emoji.vector
emoji_seg = EnvFactory("CanViT-EmojiSeg-v0", _emoji_seg, PlacesOptions)
emoji_seg_vector = emoji_seg.vector
emoji_depth = EnvFactory("CanViT-EmojiDepth-v0", _emoji_depth, PlacesOptions)
emoji_depth_vector = emoji_depth.vector
imagenet = EnvFactory("CanViT-IN1k-v0", _imagenet, ImageNetOptions)
imagenet_vector = imagenet.vector
ade20k = EnvFactory("CanViT-ADE20K-v0", _ade20k, ADE20KOptions)
ade20k_vector = ade20k.vector


# -- pieces ----------------------------------------------------------------------------------------

ModelT = TypeVar("ModelT", bound=nn.Module)
ProbedT = TypeVar("ProbedT", bound=CanViTWithProbe[Any])


def _model(option: str, value: Any, kind: type[ModelT]) -> ModelT:
    """A model by name or directory, or a copy of one in memory: what is made faster is the copy."""
    if isinstance(value, kind):
        return copy.deepcopy(value).eval()
    if isinstance(value, nn.Module):
        raise ValueError(
            f"{option} is a {type(value).__name__}; give a {kind.__name__}, or the name or "
            "directory of a checkpoint."
        )
    found: ModelT = kind.from_pretrained(_name(option, value))  # type: ignore[attr-defined]
    return found


def _with_probe(kind: type[ProbedT], *, backbone: Any, probe: Any) -> tuple[ProbedT, Any]:
    """A model with its probe, and the probe that it was asked for: None where it is in memory."""
    if isinstance(backbone, nn.Module):
        return _model("backbone", backbone, kind), None
    model = kind.from_pretrained_with_probe(_name("backbone", backbone), _name("probe", probe))
    return model, probe


def _name(option: str, value: Any) -> str | Path:
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{option} is {value!r}; give the name or directory of a checkpoint.")
    return value if isinstance(value, str) else Path(value)


def _cached(scenes: Scenes, *, cache_bytes: int) -> Scenes:
    return CachedScenes(scenes, max_bytes=cache_bytes) if cache_bytes else scenes
