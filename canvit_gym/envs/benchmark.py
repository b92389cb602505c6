"""How fast environments step: `python -m canvit_gym.envs.benchmark`.

Prints JSON: glimpses a second through `make_vec`, the share of a step that is not the model's
forward, and the seconds from a fresh interpreter to a first observation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import gymnasium as gym
import torch
from torch import nn

import canvit_gym  # noqa: F401  (registers the ids)

_WARM_EPISODES = 32  # generated scenes are drawn from sprites that are scaled once and then kept

_FIRST_OBSERVATION = """
import gymnasium
gymnasium.make("canvit_gym:CanViT-Emoji-v0").reset(seed=0)
"""


class ForwardClock:
    """Adds up the seconds that a module's forward takes."""

    def __init__(self, *modules: nn.Module) -> None:
        self.seconds = 0.0
        for module in modules:
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def measure_steps(
    env_id: str, *, num_envs: int, blocks: int, seconds: float, **kwargs: Any
) -> dict[str, float]:
    """Medians over blocks of random actions: glimpses a second, and the overhead's share."""
    envs: Any = gym.make_vec(
        env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs
    )
    model = envs.rollout.task.model
    clock = ForwardClock(model.canvit, model.readout)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(_WARM_EPISODES * envs.rollout.budget):
        envs.step(envs.action_space.sample())
    rates, shares = [], []
    for _ in range(blocks):
        clock.seconds, steps, started = 0.0, 0, time.perf_counter()
        # Whole episodes only, so that every block has its share of new scenes.
        while steps % envs.rollout.budget or time.perf_counter() - started < seconds:
            envs.step(envs.action_space.sample())
            steps += 1
        elapsed = time.perf_counter() - started
        rates.append(steps * num_envs / elapsed)
        shares.append(1 - clock.seconds / elapsed)
    return {
        "glimpses_per_second": statistics.median(rates),
        "overhead_share": statistics.median(shares),
    }


def measure_first_observation(*, repeats: int) -> float:
    """Median seconds from starting an interpreter to the first observation of CanViT-Emoji-v0."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", _FIRST_OBSERVATION], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m canvit_gym.envs.benchmark")
    parser.add_argument("--env", default="CanViT-Emoji-v0")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a block")
    args = parser.parse_args()
    figures = {
        "env": args.env,
        "num_envs": args.num_envs,
        "threads": torch.get_num_threads(),
        **measure_steps(args.env, num_envs=args.num_envs, blocks=args.blocks, seconds=args.seconds),
        "first_observation_seconds": measure_first_observation(repeats=3),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
