"""Small stand-ins that every room's tests share: random weights, generated pictures, no network."""

from __future__ import annotations

import os
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
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import Classification
from canvit_gym.tasks.depth import DepthProbe
from canvit_gym.tasks.segmentation import Segmentation
from canvit_gym.training.mini import MINI_CONFIG

# One, unless told otherwise: pytest-xdist has one worker a core already.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

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


def random_probe(*, num_classes: int) -> SegmentationProbe:
    """A probe of the mini's canvas whose maps have many classes and change with every glimpse."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        probe = SegmentationProbe(
            embed_dim=MINI_CONFIG.canvas_dim, num_classes=num_classes, dropout=0.1, use_ln=True
        )
        with torch.no_grad():
            probe.conv.weight.normal_(std=0.3)
            probe.bn.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            probe.bn.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return probe.eval()


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
def emoji_probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a segmentation probe of the emoji scenes' classes, with random weights."""
    directory = tmp_path_factory.mktemp("emoji_probe")
    random_probe(num_classes=len(EmojiScenes.mask_class_names)).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def ade20k_probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a segmentation probe of 150 classes, with random weights."""
    directory = tmp_path_factory.mktemp("ade20k_probe")
    random_probe(num_classes=150).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def depth_probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a depth probe of the mini's canvas, with random weights."""
    directory = tmp_path_factory.mktemp("depth_probe")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = DepthProbe(
            embed_dim=MINI_CONFIG.canvas_dim,
            num_bins=16,
            dropout=0.1,
            use_ln=True,
            log_depth_min=0.0,
            log_depth_max=2.5,
        )
        torch.nn.init.normal_(probe.conv.weight)
    probe.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def ade20k_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with blocky masks in each split, in the layout of SceneParse150."""
    root = tmp_path_factory.mktemp("ade20k")
    rng = np.random.default_rng(1)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(3):
            name, size = f"ADE_{split}_{i}", (120 + 20 * i, 100)
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            picture = coarse.resize(size, Image.Resampling.BICUBIC)
            picture.save(root / "images" / split / f"{name}.jpg")
            mask = Image.fromarray(rng.integers(0, 151, (5, 6), dtype=np.uint8))
            mask.resize(size, Image.Resampling.NEAREST).save(
                root / "annotations" / split / f"{name}.png"
            )
    return root


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
    mini_checkpoint: str,
    imagenet_checkpoint: str,
    imagenet_folder: Path,
    emoji_probe: str,
    depth_probe: str,
    ade20k_probe: str,
    ade20k_folder: Path,
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
        "CanViT-EmojiSeg-v0": {"backbone": mini_checkpoint, "probe": emoji_probe},
        "CanViT-EmojiDepth-v0": {"backbone": mini_checkpoint, "probe": depth_probe},
        "CanViT-ADE20K-v0": {
            "backbone": mini_checkpoint,
            "probe": ade20k_probe,
            "scenes": str(ade20k_folder),
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
def make_segmentation_rollout(mini_checkpoint: str, emoji_probe: str) -> Callable[..., Rollout]:
    """Rollouts that segment emoji scenes; label_size_px is the task's, all else is Rollout's."""
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe(mini_checkpoint, emoji_probe)

    def make(*, label_size_px: int = 8, **kwargs: Any) -> Rollout:
        task = Segmentation(
            model=model, class_names=EmojiScenes.mask_class_names, label_size_px=label_size_px
        )
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
