"""What the program around sets in PyTorch changes nothing; what comes out can be learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

IDS = ("CanViT-Emoji-v0", "CanViT-EmojiSeg-v0")


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES: dict[str, Callable[[], Any]] = {
    "float64 by default": default_dtype,
    "the meta device by default": default_device,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "a device context": lambda: torch.device("meta"),
}


def play(make: Callable[[], Any]) -> list[Any]:
    envs = make()
    envs.action_space.seed(0)
    seen: list[Any] = [envs.reset(seed=0)]
    for _ in range(3):
        seen.append(envs.step(envs.action_space.sample()))
    envs.close()
    return seen


def leaves(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from leaves(value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, torch.Tensor):
        assert value.dtype == torch.float32 and value.device.type == "cpu"
        yield value.numpy()
    elif value is not None:
        array = np.asarray(value)
        if array.dtype != object:
            yield array
        else:
            yield from leaves(list(array))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("env_id", IDS)
def test_it_changes_nothing(
    env_id: str, output: str, state: str, env_kwargs: dict[str, dict[str, Any]]
) -> None:
    def make() -> Any:
        return gym.make_vec(
            env_id, num_envs=2, vectorization_mode="vector_entry_point", output=output, budget=2,
            **env_kwargs[env_id],
        )  # fmt: skip

    expected = list(leaves(play(make)))
    with STATES[state]():
        found = play(make)
    same = list(leaves(found))
    assert len(same) == len(expected) > 20
    for a, b in zip(same, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("state", ["gradients", "inference mode"])
def test_observations_can_be_learned_through(
    state: str, env_kwargs: dict[str, dict[str, Any]]
) -> None:
    envs: Any = gym.make_vec(
        IDS[0], num_envs=2, vectorization_mode="vector_entry_point", output="torch", budget=2,
        **env_kwargs[IDS[0]],
    )  # fmt: skip
    with STATES[state]():
        observation, _ = envs.reset(seed=0)
        observation, reward, *_ = envs.step(envs.action_space.sample())
    assert not any(x.is_inference() or x.requires_grad for x in (*observation.values(), reward))
    weight = torch.zeros(observation["canvas"].shape[1], requires_grad=True)
    value = torch.einsum("bcij,c->b", observation["canvas"], weight)
    (value - reward).square().sum().backward()
    assert weight.grad is not None and bool((weight.grad != 0).any())


def test_episodes_can_be_learned_through(make_rollout: Callable[..., Any]) -> None:
    from canvit_gym import Viewpoint
    from canvit_gym.scenes.emoji import EmojiScenes

    rollout = make_rollout()
    episode = rollout.start([EmojiScenes(split="train")[0]])
    episode = rollout.look(episode, Viewpoint.full_scene(batch_size=1))
    scale = torch.ones((), requires_grad=True)
    (episode.state.canvas * scale).sum().backward()
    assert scale.grad is not None
