"""Small stand-ins that every room's tests share: random weights, generated pictures, no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.identity import BackboneIdentity
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import Classification
from canvit_gym.training.mini import MINI_CONFIG

torch.set_num_threads(1)  # pytest-xdist has one worker a core already

WNIDS = ("n01440764", "n01443537", "n02123045", "n03063599")


def random_classifier(*, n_classes: int) -> CanViTForImageClassification:
    """A mini with random weights, perturbed so that each glimpse visibly moves the belief."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CanViTForImageClassification(canvit_config=MINI_CONFIG, n_classes=n_classes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
            model.readout.norm.weight.fill_(1.0)
            model.readout.proj.weight.normal_(std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def mini_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a classifier of the 16 animals, with random weights."""
    directory = tmp_path_factory.mktemp("mini")
    random_classifier(n_classes=16).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def imagenet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a classifier of 1,000 classes, with random weights."""
    directory = tmp_path_factory.mktemp("imagenet_mini")
    random_classifier(n_classes=1000).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def imagenet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noisy pictures in four class folders named by wnid."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = root / WNIDS[i % 4]
        folder.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{i}.jpeg")
    return root


@pytest.fixture(scope="session")
def env_kwargs(
    mini_checkpoint: str, imagenet_checkpoint: str, imagenet_folder: Path
) -> dict[str, dict[str, Any]]:
    """For each registered id, the keyword arguments that make it small and offline."""
    return {
        "CanViT-Emoji-v0": {"backbone": mini_checkpoint},
        "CanViT-IN1k-v0": {
            "backbone": imagenet_checkpoint,
            "scenes": str(imagenet_folder),
            "scene_size_px": 96,
            "canvas_grid_size": 16,
        },
    }


@pytest.fixture(scope="session")
def make_rollout(mini_checkpoint: str) -> Callable[..., Rollout]:
    """Rollouts of one random mini; keyword arguments are Rollout's."""
    model = CanViTForImageClassification.from_pretrained(mini_checkpoint)
    task = Classification(model=model, class_names=EmojiScenes.class_names)

    def make(**kwargs: Any) -> Rollout:
        return Rollout(task=task, glimpse=MINI_GLIMPSE, **kwargs)

    return make


@pytest.fixture(scope="session")
def make_vector(make_rollout: Callable[..., Rollout]) -> Callable[..., CanViTVectorEnv]:
    """Vector environments over emoji scenes without loading a checkpoint again.

    budget, initial_glimpse and precision are Rollout's; all else is CanViTVectorEnv's.
    """

    def make(num_envs: int = 3, **kwargs: Any) -> CanViTVectorEnv:
        names = ("budget", "initial_glimpse", "precision")
        rollout = make_rollout(**{name: kwargs.pop(name) for name in names if name in kwargs})
        return CanViTVectorEnv(
            num_envs=num_envs,
            scenes=EmojiScenes(split="train"),
            rollout=rollout,
            backbone=BackboneIdentity(name="random", sha256="0" * 64),
            **kwargs,
        )

    return make
