"""Scenes and models of one's own, given as objects."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from canvit_gym import Scene
from canvit_gym.envs.options import RUNTIME, AllOptions, EnvOptions, names, recorded
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.model.identity import identify_model
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training.mini import MINI_CONFIG

EMOJI = "CanViT-Emoji-v0"


class Grey:
    """Five grey pictures; the label is how bright they are."""

    size_px = 128
    class_names = tuple(f"grey {i}" for i in range(16))
    mask_class_names = ()

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < 5:
            raise IndexError(index)
        picture = np.full((128, 128, 3), 50 * index, dtype=np.uint8)
        return Scene(name=f"grey/{index}", picture=picture, label=index, mask=None, target=None)


def test_an_object_serves_as_scenes(mini_checkpoint: str) -> None:
    env: Any = gym.make(EMOJI, scenes=Grey(), backbone=mini_checkpoint)
    for index in range(5):
        _, info = env.reset(options={"scene": [index]})
        assert info["label"] == index and env.unwrapped.episode.scenes[0].name == f"grey/{index}"
    assert env.unwrapped.class_names[3] == "grey 3" and len(env.unwrapped.scenes) == 5


def test_a_split_chooses_among_several(mini_checkpoint: str) -> None:
    scenes = {"train": Grey(), "test": EmojiScenes(split="test")}
    kwargs = {"scenes": scenes, "backbone": mini_checkpoint}
    assert len(gym.make(EMOJI, split="train", **kwargs).unwrapped.scenes) == 5  # type: ignore[attr-defined]
    assert len(gym.make(EMOJI, split="test", **kwargs).unwrapped.scenes) > 5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="split is 'val', but scenes has 'train', 'test'; choose"):
        gym.make(EMOJI, split="val", **kwargs)
    with pytest.raises(ValueError, match="split is 'test', but scenes is one object.* give {"):
        gym.make(EMOJI, split="test", scenes=Grey(), backbone=mini_checkpoint)


class Worded(Grey):
    labels = ("dark", "darker")  # whatever this means to its author


def test_what_else_an_object_has_is_its_own(mini_checkpoint: str) -> None:
    gym.make(EMOJI, scenes=Worded(), backbone=mini_checkpoint).reset(seed=0)


class Nameless(Grey):
    class_names = None  # type: ignore[assignment]


class Empty(Grey):
    def __len__(self) -> int:
        return 0


class Small(Grey):
    def __getitem__(self, index: int) -> Scene:
        scene = super().__getitem__(index)
        return replace(scene, picture=scene.picture[:64, :64])


class Floats(Grey):
    def __getitem__(self, index: int) -> Scene:
        scene = super().__getitem__(index)
        return replace(scene, picture=scene.picture / 255)


class Pictures(Grey):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index).picture


@pytest.mark.parametrize(
    ("scenes", "complaint"),
    [
        ([1, 2], "is a list, which has no size_px and has no class_names"),
        (Nameless(), "has a class_names that is no tuple"),
        (Empty(), "is a Empty without any scene"),
        (Small(), r"first of the scenes given is \(64, 64, 3\)"),
        (Floats(), "have float64 pictures; give uint8"),
        (Pictures(), "first of the scenes given is ndarray"),
        ({}, "scenes is an empty dict"),
        ({"train": 7}, "scenes is a int"),
    ],
)
def test_what_is_no_source_of_scenes(scenes: Any, complaint: str, mini_checkpoint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        gym.make(EMOJI, scenes=scenes, backbone=mini_checkpoint)
    assert str(error.value).endswith(".")


def test_scenes_without_what_the_task_needs(mini_checkpoint: str, emoji_probe: str) -> None:
    with pytest.raises(ValueError, match="names 47 classes but the scenes have 0"):
        gym.make("CanViT-EmojiSeg-v0", scenes=Grey(), backbone=mini_checkpoint, probe=emoji_probe)


def test_a_model_in_memory(mini_checkpoint: str) -> None:
    model = CanViTForImageClassification.from_pretrained(mini_checkpoint)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by_name: Any = gym.make(EMOJI, backbone=mini_checkpoint)
    in_memory: Any = gym.make(EMOJI, backbone=model)
    expected, found = by_name.reset(seed=0)[0], in_memory.reset(seed=0)[0]
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    identity = in_memory.unwrapped.batch.backbone
    assert identity == identify_model(model) and identity.name.startswith("CanViTForImageClass")
    # What was given stays as it was, and what is recorded is plain JSON.
    assert list(model.state_dict()) == list(weights)
    assert json.dumps(recorded({"backbone": model, "scenes": Grey(), "budget": np.int64(2)})) == (
        json.dumps({"backbone": identity.name, "budget": 2})
    )


def test_a_model_of_another_kind() -> None:
    model = CanViTForPretraining(canvit_config=MINI_CONFIG, teacher_dim=8, teacher_patch_grid=4)
    with pytest.raises(
        ValueError, match="backbone is a CanViTForPretraining; give a CanViTForImage"
    ):
        gym.make(EMOJI, backbone=model)
    other = CanViTForImageClassification(canvit_config=MINI_CONFIG, n_classes=3)
    with pytest.raises(ValueError, match="names 3 classes but the scenes have 16"):
        gym.make(EMOJI, backbone=other)


def test_every_option_is_listed_once() -> None:
    assert names(EnvOptions) < names(AllOptions)
    assert {"scenes", "device", "cache_bytes", "draw_ahead", "output", "render_mode"} <= RUNTIME
    assert names(AllOptions) > RUNTIME and "budget" not in RUNTIME
