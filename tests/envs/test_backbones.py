"""The ImageNet environment on a fresh machine: what it looks with, at what, and what it says."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import canvit_gym  # noqa: F401
from canvit_agents.judging.evaluate import make_benchmark
from canvit_agents.learning.train import train
from canvit_gym.checkpoint_ids import FLAGSHIP, IN1K_FINETUNED, IN1K_PROBE
from canvit_gym.envs import backbones
from canvit_gym.envs.backbones import imagenet_backbone, looks_of, settled
from canvit_gym.envs.make import IMAGENET_ROOT
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE
from canvit_gym.model.checkpoints import EMBEDDED, CheckpointNotFound
from canvit_gym.model.heads import CanViTForImageClassification

IN1K = "CanViT-IN1k-v0"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A machine without network, hub cache and pictures; what was asked of the hub."""
    asked: list[str] = []

    def refuse(repo: str, **_: Any) -> str:
        asked.append(repo)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.delenv("CANVIT_HUB_ROOT", raising=False)
    monkeypatch.delenv(IMAGENET_ROOT, raising=False)
    backbones._ask.cache_clear()
    yield asked
    backbones._ask.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, imagenet_checkpoint: str) -> str:
    """Random weights in place of the embedded mini-in1k."""
    monkeypatch.setitem(EMBEDDED, "mini-in1k", imagenet_checkpoint)
    return imagenet_checkpoint


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, imagenet_checkpoint: str) -> Path:
    """A folder of checkpoints with random weights in place of the official one."""
    shutil.copytree(imagenet_checkpoint, tmp_path / "hub" / IN1K_FINETUNED)
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path / "hub"))
    return tmp_path / "hub"


def messages(said: Any) -> list[str]:
    return [str(warning.message) for warning in said if warning.category is UserWarning]


def test_a_fresh_machine_plays_at_once() -> None:
    started = time.monotonic()
    with pytest.warns(UserWarning) as said:
        env = gym.make(f"canvit_gym:{IN1K}")
    backbone, pictures = (m for m in messages(said) if "checkpoint" in m or "album" in m)
    for part in (IN1K_FINETUNED, "mini-in1k", "backbone='official'", "ConnectionError"):
        assert part in backbone
    assert "32 photographs" in pictures and IMAGENET_ROOT in pictures
    observation, info = env.reset(seed=0)
    _, reward, *_, after = env.step(env.action_space.sample())
    assert np.isfinite(reward) and "correct" in after
    batch = env.unwrapped.batch  # type: ignore[attr-defined]
    assert batch.backbone.name == "mini-in1k"
    assert batch.rollout.glimpse == MINI_GLIMPSE and batch.scenes.size_px == 128
    assert len(batch.scenes) == 32 and len(batch.class_names) == 1000
    assert time.monotonic() - started < 30


def test_the_embedded_mini_names_photographs(offline: list[str]) -> None:
    env: Any = gym.make(IN1K, backbone="mini-in1k", scenes="album", action="tile")
    batch = env.unwrapped.batch
    assert batch.rollout.glimpse == MINI_GLIMPSE and batch.scenes.size_px == 128
    probs = []
    for index in range(len(batch.scenes)):
        env.reset(options={"scene": index})
        for tile in (1, 2, 3, 4):
            _, _, terminated, _, info = env.step(tile)
        probs.append(info["potential_after"]["prob"])
        assert terminated
    # Most classes of the album were hardly in its training, and chance is one in a thousand.
    assert np.mean(probs) > 1 / 1000 and offline == []


def test_the_checkers_are_content_with_it() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with pytest.warns(UserWarning):
        env, other = gym.make(IN1K), gym.make(IN1K, action="cell")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The first makes the environment once more, which says again what it looks with.
        warnings.filterwarnings("ignore", message=".*(official checkpoint|no scenes)")
        check_env(env.unwrapped)
        warnings.filterwarnings("ignore", message=".*(image|unconventional shape)")
        checker.check_env(env.unwrapped)
    assert other.action_space.n == 3 * 8**2  # type: ignore[attr-defined]


def test_the_hub_is_asked_once(stand_in: str, offline: list[str]) -> None:
    with pytest.warns(UserWarning):
        for _ in range(3):
            assert imagenet_backbone("auto") == "mini-in1k"
    assert offline == [IN1K_FINETUNED]


def test_the_embedded_album_and_mini_can_be_chosen_in_silence(
    stand_in: str, offline: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env: Any = gym.make(IN1K, backbone="mini-in1k", scenes="album", split="test")
    assert len(env.unwrapped.batch.scenes) == 6 and offline == []


def test_the_official_checkpoint_is_taken_where_it_is(official: Path) -> None:
    for backbone in ({}, {"backbone": "auto"}, {"backbone": "official"}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env: Any = gym.make(IN1K, scenes="album", scene_size_px=96, **backbone)
        batch = env.unwrapped.batch
        assert batch.backbone.name == IN1K_FINETUNED
        assert batch.rollout.glimpse == OFFICIAL_GLIMPSE
        assert batch.rollout.glimpse.cell_scales == (0.125, 0.25, 0.5)


def test_official_never_falls_back(stand_in: str) -> None:
    with pytest.raises(CheckpointNotFound, match=f"{IN1K_FINETUNED}.*was not found"):
        gym.make(IN1K, backbone="official", scenes="album")


def test_a_damaged_official_checkpoint_is_no_reason_to_fall_back(
    stand_in: str, official: Path
) -> None:
    (official / IN1K_FINETUNED / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        gym.make(IN1K, scenes="album")


def test_a_probe_needs_a_pretrained_backbone() -> None:
    with pytest.raises(ValueError, match=f"probe is '{IN1K_PROBE}'.* backbone='{FLAGSHIP}'"):
        gym.make(IN1K, probe=IN1K_PROBE, scenes="album")


def test_a_checkpoint_looks_as_it_was_taught(tmp_path: Path, imagenet_checkpoint: str) -> None:
    model = CanViTForImageClassification.from_pretrained(imagenet_checkpoint)
    record = {
        "scene_size_px": 64,
        "glimpse_size_px": 16,
        "canvas_grid_size": 4,
        "min_scale": 0.2,
    }
    model.save_pretrained(tmp_path, extra_config={"training": record})
    looks = looks_of(str(tmp_path))
    assert looks.scene_size_px == 64 and looks.glimpse.glimpse_size_px == 16
    env: Any = gym.make(IN1K, backbone=tmp_path, scenes="album")
    assert env.unwrapped.batch.scenes.size_px == 64
    assert env.unwrapped.batch.rollout.glimpse == looks.glimpse
    env = gym.make(IN1K, backbone=tmp_path, scenes="album", canvas_grid_size=8, scene_size_px=96)
    assert env.unwrapped.batch.scenes.size_px == 96
    assert env.unwrapped.batch.rollout.glimpse.canvas_grid_size == 8
    config = json.loads((tmp_path / "config.json").read_text())
    for training in (None, {}, {**record, "min_scale": "small"}, [1]):
        (tmp_path / "config.json").write_text(json.dumps({**config, "training": training}))
        assert looks_of(tmp_path) == backbones.OFFICIAL_LOOKS
    assert looks_of(model) == backbones.OFFICIAL_LOOKS
    assert looks_of("mini") == backbones.MINI_LOOKS


def test_results_are_of_no_other_backbone_unasked(stand_in: str, tmp_path: Path) -> None:
    refused = f"{IN1K_FINETUNED} is not to be had .*--env-kwargs backbone=mini-in1k"
    with pytest.raises(CheckpointNotFound, match=refused):
        make_benchmark(IN1K, env_kwargs={"scenes": "album"})
    with pytest.raises(CheckpointNotFound, match=refused):
        train(env_id=IN1K, out=tmp_path / "run", env_kwargs={"scenes": "album"})
    benchmark = make_benchmark(IN1K, env_kwargs={"scenes": "album", "backbone": "mini-in1k"})
    assert benchmark.env.backbone.name == "mini-in1k"


def test_what_is_recorded_is_the_checkpoints_own_name(official: Path) -> None:
    for given in ({}, {"backbone": "auto"}, {"backbone": "official"}):
        assert settled(IN1K, given) == {"backbone": IN1K_FINETUNED}
    assert settled(IN1K, {"backbone": "mini"}) == {"backbone": "mini"}
    assert settled("CanViT-Emoji-v0", {}) == {}
    model = CanViTForImageClassification.from_pretrained(official / IN1K_FINETUNED)
    assert settled(IN1K, {"backbone": model})["backbone"] is model
