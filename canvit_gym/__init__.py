"""canvit-gym: learn where CanViT looks.

Importing this package registers the environment ids with Gymnasium and loads nothing heavy: what it
offers is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from canvit_gym.registration import register_environments

if TYPE_CHECKING:
    from canvit_gym.adapters.sb3 import make_sb3_env
    from canvit_gym.envs.rollout import Choice, Episode, Rollout
    from canvit_gym.envs.single_env import CanViTEnv
    from canvit_gym.envs.vector_env import CanViTVectorEnv
    from canvit_gym.geometry import Viewpoint
    from canvit_gym.model.canvit import CanViT, RecurrentState
    from canvit_gym.model.config import CanViTConfig
    from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
    from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe
    from canvit_gym.scenes.base import Scene, Scenes
    from canvit_gym.tasks.base import Task

_HOMES = {
    "CanViT": "model.canvit",
    "CanViTConfig": "model.config",
    "CanViTEnv": "envs.single_env",
    "CanViTForImageClassification": "model.heads",
    "CanViTForPretraining": "model.heads",
    "CanViTForSemanticSegmentation": "model.segmentation",
    "CanViTVectorEnv": "envs.vector_env",
    "Choice": "envs.rollout",
    "Episode": "envs.rollout",
    "RecurrentState": "model.canvit",
    "Rollout": "envs.rollout",
    "Scene": "scenes.base",
    "Scenes": "scenes.base",
    "SegmentationProbe": "model.segmentation",
    "Task": "tasks.base",
    "Viewpoint": "geometry",
    "make_sb3_env": "adapters.sb3",
}
"""The module of each name that is imported when it is first used (PEP 562)."""

__all__ = [
    "CanViT",
    "CanViTConfig",
    "CanViTEnv",
    "CanViTForImageClassification",
    "CanViTForPretraining",
    "CanViTForSemanticSegmentation",
    "CanViTVectorEnv",
    "Choice",
    "Episode",
    "RecurrentState",
    "Rollout",
    "Scene",
    "Scenes",
    "SegmentationProbe",
    "Task",
    "Viewpoint",
    "__version__",
    "make_sb3_env",
    "register_environments",
]

try:
    __version__ = version("canvit-gym")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "unknown"

register_environments()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
