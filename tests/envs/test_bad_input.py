"""Bad input is refused in one sentence that says what was given and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import canvit_gym  # noqa: F401
from canvit_gym import make_sb3_env
from canvit_gym.envs.make import IMAGENET_ROOT
from canvit_gym.envs.vector_env import CanViTVectorEnv

MakeVector = Callable[..., CanViTVectorEnv]
EMOJI, IN1K = "CanViT-Emoji-v0", "CanViT-IN1k-v0"
NAN = float("nan")


def assert_says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    # Gymnasium says behind a TypeError which environment it comes from.
    text = str(error.value).partition(" was raised from the environment creator")[0]
    assert "\n" not in text and text.endswith("."), text
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"


KEYWORDS = [
    ({"action": "walk"}, ValueError, ("'walk'", "'box', 'cell', 'tile'")),
    ({"reward": "fun"}, ValueError, ("'fun'", "'log_prob'", "'neg_entropy'")),
    ({"observation": "raw"}, ValueError, ("'raw'", "'compact', 'full'")),
    ({"output": "jax"}, ValueError, ("'jax'", "'numpy', 'torch'")),
    ({"precision": "int8"}, ValueError, ("'int8'", "'float32', 'bfloat16'")),
    ({"initial_glimpse": "centre"}, ValueError, ("'centre'", "'full_scene'")),
    ({"render_mode": "ansi"}, ValueError, ("'ansi'", "'rgb_array'")),
    ({"budget": 10**9}, ValueError, ("budget is 1000000000", "at most 100000")),
    ({"budget": True}, ValueError, ("budget is True", "an integer")),
    ({"budget": "4"}, ValueError, ("budget is '4'", "an integer")),
    ({"budget": np.float64(4)}, ValueError, ("budget is", "an integer")),
    ({"cell_scales": 0.5}, ValueError, ("cell_scales is 0.5", "(0, 1]")),
    ({"cell_scales": "0.5"}, ValueError, ("cell_scales is '0.5'", "(0, 1]")),
    ({"cell_scales": [NAN]}, ValueError, ("cell_scales is [nan]", "(0, 1]")),
    ({"draw_ahead": "x"}, ValueError, ("draw_ahead is 'x'", "threads", "at least 0")),
    ({"draw_ahead": -1}, ValueError, ("draw_ahead is -1", "at least 0")),
    ({"draw_ahead": 10**6}, ValueError, ("draw_ahead is 1000000", "at most 256")),
    ({"device": "gpu"}, ValueError, ("device is 'gpu'", "names none", "'cuda'")),
    ({"device": "cuda:99"}, ValueError, ("device is 'cuda:99'", "this machine offers", "'cpu'")),
    ({"device": None}, ValueError, ("device is None", "names none")),
    ({"glimpse_cost": [0.1]}, ValueError, ("glimpse_cost is [0.1]", "at least 0")),
    ({"scenes": 7}, ValueError, ("scenes is a int", "has no size_px", "give a folder")),
    ({"budget": 0}, ValueError, ("budget is 0", "at least 1")),
    ({"budget": -3}, ValueError, ("budget is -3", "at least 1")),
    ({"budget": 2.5}, ValueError, ("budget is 2.5", "at least 1")),
    ({"action": "cell", "cell_scales": []}, ValueError, ("cell_scales is []", "(0, 1]")),
    ({"action": "cell", "cell_scales": [0.5, 2]}, ValueError, ("[0.5, 2]", "(0, 1]")),
    ({"stop_action": "yes"}, ValueError, ("stop_action is 'yes'", "True or False")),
    ({"stop_action": 1}, ValueError, ("stop_action is 1", "True or False")),
    ({"glimpse_cost": -0.1}, ValueError, ("glimpse_cost is -0.1", "at least 0")),
    ({"glimpse_cost": NAN}, ValueError, ("glimpse_cost is nan", "at least 0")),
    ({"glimpse_cost": "0.1"}, ValueError, ("glimpse_cost is '0.1'", "units of the reward")),
    ({"glimpse_cost": True}, ValueError, ("glimpse_cost is True", "at least 0")),
    (
        {"foo": 1},
        TypeError,
        ("unexpected keyword argument 'foo'", "accepts", "budget", "cell_scales", "glimpse_cost"),
    ),
]


@pytest.mark.parametrize(("kwargs", "kind", "parts"), KEYWORDS, ids=[str(k[0]) for k in KEYWORDS])
@pytest.mark.parametrize("vector", [False, True], ids=["make", "make_vec"])
def test_keywords(
    env_kwargs: dict[str, dict[str, Any]],
    kwargs: dict[str, Any],
    kind: type[Exception],
    parts: tuple[str, ...],
    vector: bool,
) -> None:
    with pytest.raises(kind) as error:
        if vector:
            mode = {"num_envs": 2, "vectorization_mode": "vector_entry_point"}
            gym.make_vec(EMOJI, **mode, **env_kwargs[EMOJI], **kwargs)
        else:
            gym.make(EMOJI, **env_kwargs[EMOJI], **kwargs)
    assert_says(error, *parts)


@pytest.mark.parametrize(
    ("env_id", "accepted"),
    [(EMOJI, ("train", "test", "test_style")), (IN1K, ("all", "train", "test"))],
)
def test_split(
    env_kwargs: dict[str, dict[str, Any]], env_id: str, accepted: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as error:
        gym.make(env_id, **env_kwargs[env_id], split="holdout")
    assert_says(error, "'holdout'", *accepted)


def test_keywords_of_the_vector_env_alone(env_kwargs: dict[str, dict[str, Any]]) -> None:
    kwargs = {"vectorization_mode": "vector_entry_point", **env_kwargs[EMOJI]}
    with pytest.raises(ValueError) as error:
        gym.make_vec(EMOJI, num_envs=2, autoreset_mode="LATER", **kwargs)
    assert_says(error, "'LATER'", "'NEXT_STEP', 'SAME_STEP', 'DISABLED'")
    with pytest.raises(ValueError) as error:
        gym.make_vec(EMOJI, num_envs=0, **kwargs)
    assert_says(error, "num_envs is 0", "at least 1")
    with pytest.raises(TypeError) as error:
        gym.make(EMOJI, autoreset_mode="SAME_STEP", **env_kwargs[EMOJI])
    assert_says(error, "'autoreset_mode'", "accepts")


def test_what_an_id_supplies_itself_is_not_a_keyword(
    env_kwargs: dict[str, dict[str, Any]],
) -> None:
    for name in ("glimpse", "rollout", "task", "canvas_grid_size"):
        with pytest.raises(TypeError) as error:
            gym.make(EMOJI, **{name: None}, **env_kwargs[EMOJI])
        assert_says(error, f"got an unexpected keyword argument '{name}'")


OF_FOLDERS = [
    ({"canvas_grid_size": 0}, ("canvas_grid_size is 0", "at least 1")),
    ({"canvas_grid_size": 2.5}, ("canvas_grid_size is 2.5", "an integer")),
    ({"canvas_grid_size": -1}, ("canvas_grid_size is -1", "at most 256")),
    ({"scene_size_px": "big"}, ("scene_size_px is 'big'", "an integer")),
    ({"scene_size_px": NAN}, ("scene_size_px is nan", "an integer")),
    ({"scene_size_px": 10**6}, ("scene_size_px is 1000000", "at most 4096")),
    ({"upright": "no"}, ("upright is 'no'", "True or False")),
    ({"backbone": None}, ("backbone is None", "checkpoint")),
    ({"backbone": 7}, ("backbone is 7", "checkpoint")),
    ({"probe": 7}, ("probe is 7", "checkpoint")),
]


@pytest.mark.parametrize(("kwargs", "parts"), OF_FOLDERS, ids=[str(k[0]) for k in OF_FOLDERS])
def test_keywords_of_folders(
    env_kwargs: dict[str, dict[str, Any]], kwargs: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as error:
        gym.make(IN1K, **{**env_kwargs[IN1K], **kwargs})
    assert_says(error, *parts)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"budget": np.int64(3)},
        {"glimpse_cost": np.float32(0.1)},
        {"glimpse_cost": np.int32(1)},
        {"stop_action": np.True_},
        {"cell_scales": np.array([0.25, 0.5], dtype=np.float32), "action": "cell"},
        {"draw_ahead": np.uint8(1)},
        {"device": torch.device("cpu")},
    ],
    ids=str,
)
def test_numpys_numbers_are_numbers(
    env_kwargs: dict[str, dict[str, Any]], kwargs: dict[str, Any]
) -> None:
    env: Any = gym.make(EMOJI, **{**env_kwargs[EMOJI], **kwargs})
    env.reset(seed=0)
    env.step(env.action_space.sample())
    if "budget" in kwargs:
        assert env.unwrapped.budget == 3 and type(env.unwrapped.budget) is int


SEEDS = [3, np.int64(3), np.uint8(3), [3, 4], (3, np.int32(4)), np.array([3, 4]), [np.int64(3), 4]]


@pytest.mark.parametrize("seed", SEEDS, ids=repr)
def test_numpys_seeds_are_seeds(make_vector: MakeVector, seed: Any) -> None:
    envs = make_vector(2)
    expected = envs.reset(seed=3)[1]["scene"].tolist()
    assert envs.reset(seed=seed)[1]["scene"].tolist() == expected


def test_numpys_seeds_of_the_single_env(env_kwargs: dict[str, dict[str, Any]]) -> None:
    env = gym.make(EMOJI, **env_kwargs[EMOJI])
    assert env.reset(seed=np.int64(3))[1]["scene"] == env.reset(seed=3)[1]["scene"]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed is -1; give an integer, at least 0"):
        make_sb3_env(EMOJI, num_envs=1, seed=-1, **env_kwargs[EMOJI])


@pytest.mark.parametrize("seed", [-1, 0.5, "x", [1, -1], True, [0.5, 1]], ids=repr)
def test_other_seeds_are_refused(make_vector: MakeVector, seed: Any) -> None:
    with pytest.raises(ValueError) as error:
        make_vector(2).reset(seed=seed)
    assert_says(error, "seed is", "an integer, at least 0")


def test_no_scenes(
    env_kwargs: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(IMAGENET_ROOT, raising=False)
    kwargs = {key: value for key, value in env_kwargs[IN1K].items() if key != "scenes"}
    with pytest.warns(UserWarning) as said:
        gym.make(IN1K, **kwargs)
    message = next(str(w.message) for w in said if "no scenes" in str(w.message))
    assert all(part in message for part in ("album", "32 photographs", "scenes=", IMAGENET_ROOT))
    with pytest.raises(FileNotFoundError) as missing:
        gym.make(IN1K, **kwargs, scenes=str(tmp_path / "nowhere"))
    assert_says(missing, str(tmp_path / "nowhere"), "accepted are")
    with pytest.raises(ValueError) as error:
        gym.make(IN1K, **kwargs, scenes=str(tmp_path))
    assert_says(error, str(tmp_path), "holds no pictures", "accepted are")


def test_the_scenes_folder_may_come_from_the_environment(
    env_kwargs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = dict(env_kwargs[IN1K])
    monkeypatch.setenv(IMAGENET_ROOT, kwargs.pop("scenes"))
    env = gym.make(IN1K, **kwargs)
    assert len(env.unwrapped.batch.scenes) == 8  # type: ignore[attr-defined]


def test_a_backbone_of_other_classes(
    env_kwargs: dict[str, dict[str, Any]], imagenet_checkpoint: str
) -> None:
    with pytest.raises(ValueError) as error:
        gym.make(EMOJI, backbone=imagenet_checkpoint)
    assert_says(error, "names 1000 classes", "have 16", "choose a checkpoint")


ACTIONS = [
    ("box", [0.0, NAN, 0.0], ("nan", "finite and in [-1, 1]")),
    ("box", [0.0, 0.0, np.inf], ("inf", "finite and in [-1, 1]")),
    ("box", [0.0, -1.01, 0.0], ("-1.01", "in [-1, 1]")),
    ("box", [0.0, 0.0], ("(2, 2)", "[batch, 3]")),
    ("box", [[0.0, 0.0, 0.0]], ("(2, 1, 3)", "[batch, 3]")),
    ("box", [0, 0, 0], ("int64", "give floats")),
    ("box", None, ("None", "array of numbers")),
    ("box", ["a", "b", "c"], ("'a'", "array of numbers")),
    ("cell", 128, ("128", "0 to 127")),
    ("cell", -1, ("-1", "0 to 127")),
    ("cell", 0.5, ("float64", "0 to 127")),
    ("tile", 21, ("21", "0 to 20")),
    ("tile", [1, 2], ("(2, 2)", "0 to 20")),
    ("tile", True, ("bool", "0 to 20")),
]


@pytest.mark.parametrize(("kind", "action", "parts"), ACTIONS)
def test_actions(make_vector: MakeVector, kind: str, action: Any, parts: tuple[str, ...]) -> None:
    envs = make_vector(2, action=kind, cell_scales=[0.25, 0.5])
    envs.reset(seed=0)
    before = envs.episode
    with pytest.raises(ValueError) as error:
        envs.step(np.array([action] * 2))
    assert_says(error, *parts)
    assert envs.episode is before  # refused whole, so that the episode can go on


STOPPING = [
    ("box", [0.0, 0.0, 0.0], ("(2, 3)", "[batch, 4]", "(row, col, zoom, stop)")),
    ("box", [0.0, 0.0, 0.0, NAN], ("stop nan", "finite and in [-1, 1]")),
    ("box", [0.0, 2.0, 0.0, 1.0], ("col 2", "stop 1", "in [-1, 1]")),
    ("cell", 129, ("129", "0 to 128")),
    ("tile", 22, ("22", "0 to 21")),
]


@pytest.mark.parametrize(("kind", "action", "parts"), STOPPING)
def test_actions_where_one_stops(
    make_vector: MakeVector, kind: str, action: Any, parts: tuple[str, ...]
) -> None:
    envs = make_vector(2, action=kind, cell_scales=[0.25, 0.5], stop_action=True)
    envs.reset(seed=0)
    before = envs.episode
    with pytest.raises(ValueError) as error:
        envs.step(np.array([action] * 2))
    assert_says(error, *parts)
    assert envs.episode is before


@pytest.mark.parametrize("action", [[0.0, NAN, 0.0], [0.0, 0.0], [0.0, 0.0, 1.5], None, 0])
def test_actions_of_the_single_env(env_kwargs: dict[str, dict[str, Any]], action: Any) -> None:
    env = gym.make(EMOJI, disable_env_checker=True, **env_kwargs[EMOJI])
    env.reset(seed=0)
    with pytest.raises(ValueError) as error:
        env.step(action)
    assert_says(error)


def test_one_action_for_each_row(make_vector: MakeVector) -> None:
    envs = make_vector(2)
    envs.reset(seed=0)
    with pytest.raises(ValueError) as error:
        envs.step(np.zeros((3, 3), dtype=np.float32))
    assert_says(error, "3 actions were given for 2 environments")
    with pytest.raises(ValueError) as error:
        envs.step(0.5)
    assert_says(error, "shape ()", "[batch, 3]")


RESETS = [
    ({"options": {"speed": 1}}, ("'speed'", "'scene' and 'reset_mask'")),
    ({"options": {"scene": 3}}, ("is 3", "2 scene indices")),
    ({"options": {"scene": [0.5, 1.5]}}, ("[0.5, 1.5]", "2 scene indices")),
    ({"options": {"reset_mask": np.array([1, 0])}}, ("int64", "bool array [2]")),
    ({"options": {"reset_mask": np.array([True])}}, ("(1,)", "bool array [2]")),
    ({"options": {"reset_mask": np.zeros(2, dtype=bool)}}, ("at least one True",)),
    ({"seed": [1, 2, 3]}, ("3 seeds", "2 environments")),
]


@pytest.mark.parametrize(("kwargs", "parts"), RESETS, ids=[str(r[0]) for r in RESETS])
def test_resets(make_vector: MakeVector, kwargs: dict[str, Any], parts: tuple[str, ...]) -> None:
    envs = make_vector(2)
    envs.reset(seed=0)
    with pytest.raises(ValueError) as error:
        envs.reset(**kwargs)
    assert_says(error, *parts)


def test_a_scene_that_does_not_exist(make_vector: MakeVector) -> None:
    with pytest.raises(IndexError) as error:
        make_vector(1).reset(options={"scene": [2**31]})
    assert_says(error, str(2**31), "'train'")
