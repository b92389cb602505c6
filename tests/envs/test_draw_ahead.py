"""Drawing scenes ahead changes nothing but the time that a step takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from canvit_gym.envs.single_env import CanViTEnv
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.emoji import EmojiScenes

MakeVector = Callable[..., CanViTVectorEnv]
ROWS = 3
LOOK = np.zeros((ROWS, 3), dtype=np.float32)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("scenes")]


def played(envs: CanViTVectorEnv, *, mode: AutoresetMode) -> list[Any]:
    """Scene names and infos of a run with seeded, chosen and masked resets in between."""
    seen: list[Any] = []

    def note(infos: dict[str, Any]) -> None:
        seen.append(([scene.name for scene in envs.episode.scenes], infos["scene"].tolist()))

    def steps(count: int) -> None:
        for _ in range(count):
            infos = envs.step(LOOK)[4]
            note(infos)
            if "final_info" in infos:
                seen.append(infos["final_info"]["scene"].tolist())
            if mode == AutoresetMode.DISABLED and envs.has_ended.any():
                note(envs.reset(options={"reset_mask": envs.has_ended})[1])

    note(envs.reset(seed=5)[1])
    steps(3)
    mask = np.array([False, True, False])
    note(envs.reset(options={"reset_mask": mask})[1])  # rows are out of step from here on
    steps(3)
    note(envs.reset(options={"scene": [7, 8], "reset_mask": ~mask})[1])
    steps(4)
    note(envs.reset(seed=[9, None, 5], options={"reset_mask": np.array([True, True, False])})[1])
    steps(3)
    note(envs.reset(seed=5)[1])
    note(envs.reset(options={"scene": [1, 2, 3]})[1])
    note(envs.reset()[1])
    steps(3)
    return seen


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_same_scenes_are_played(make_vector: MakeVector, mode: AutoresetMode) -> None:
    runs = []
    for ahead in (2, 1, 0):
        envs = make_vector(ROWS, budget=2, autoreset_mode=mode, draw_ahead=ahead)
        runs.append(played(envs, mode=mode))
        envs.close()
    assert runs[0] == runs[1] == runs[2]


def test_a_chosen_scene_takes_no_drawn_ones_place(make_vector: MakeVector) -> None:
    envs, plain = make_vector(2), make_vector(2, draw_ahead=0)
    orders = [np.random.default_rng(np.random.SeedSequence(s)) for s in (3, 4)]
    expected = [[int(order.integers(len(envs.scenes))) for _ in range(2)] for order in orders]
    for each in (envs, plain):
        assert each.reset(seed=3)[1]["scene"].tolist() == [row[0] for row in expected]
        each.reset(options={"scene": [1, 2]})
        assert each.reset()[1]["scene"].tolist() == [row[1] for row in expected]
        each.close()


class FailingScenes(EmojiScenes):
    """Emoji scenes of which those in `broken` cannot be made."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Scene:
        if index in self.broken:
            raise OSError(f"scene {index} is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_comes_at_the_step_that_needs_the_scene(
    make_vector: MakeVector, ahead: int
) -> None:
    template = make_vector(ROWS, budget=2)
    scenes = FailingScenes(split="train")
    envs = CanViTVectorEnv(
        num_envs=ROWS,
        scenes=scenes,
        rollout=template.rollout,
        backbone=template.backbone,
        draw_ahead=ahead,
    )
    template.reset(seed=0)
    second, third = (template.reset()[1]["scene"].tolist() for _ in range(2))
    template.close()
    scenes.broken = (second[1],)
    envs.reset(seed=0)
    envs.step(LOOK)
    with pytest.raises(OSError, match=f"^scene {second[1]} is damaged$"):
        envs.step(LOOK)
    assert envs.reset()[1]["scene"].tolist() == third  # the orders go on behind it
    envs.close()


def test_closing_ends_the_thread_and_the_environment(make_vector: MakeVector) -> None:
    before = set(threads())
    envs = make_vector(ROWS, budget=1, render_mode="rgb_array")
    envs.reset(seed=0)
    assert len(set(threads()) - before) == 1
    envs.close()
    assert not set(threads()) - before
    for use in (envs.reset, lambda: envs.step(LOOK), envs.render):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="was closed; make a new one"):
            use()
    envs.close()  # closing twice is harmless


def test_a_single_environment_has_a_thread_only_where_it_is_asked_for(
    make_vector: MakeVector,
) -> None:
    template = make_vector(1)
    before = set(threads())
    scenes = []
    for kwargs in ({}, {"draw_ahead": 1}):
        env = CanViTEnv(
            scenes=template.scenes, rollout=template.rollout, backbone=template.backbone, **kwargs
        )
        seeds = (4, None, None, 2)
        scenes.append([int(env.reset(seed=seed)[1]["scene"]) for seed in seeds])
        assert len(set(threads()) - before) == len(kwargs)
        env.close()
        assert not set(threads()) - before
    assert scenes[0] == scenes[1]
