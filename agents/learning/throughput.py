"""Where the time of PPO goes: `python -m canvit_agents.learning.throughput`.

Trains as the hyperparameters say with several numbers of environments. All get the same glimpses
before each update, and so the same number of updates from as many glimpses: with twice the
environments, half the steps. Also what a rollout buffer takes, of these and of CanViT-B's.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer
from torch.utils.flop_counter import FlopCounterMode

from canvit_agents.learning.ppo import new_ppo
from canvit_agents.learning.train import load_hyperparameters
from canvit_gym import CanViTConfig, CanViTForImageClassification, Rollout, make_sb3_env
from canvit_gym.bench.env import Stopwatch, clock_of
from canvit_gym.bench.machine import add_arguments, described, machine, write
from canvit_gym.envs.observations import Observations
from canvit_gym.geometry import OFFICIAL_GLIMPSE
from canvit_gym.tasks.classification import Classification

NUM_ENVS = (16, 64, 128, 256)
PARTS = {
    "environment": "its steps: backbone, scenes, observations",
    "policy": "choosing actions and keeping what they led to",
    "update": "epochs over that",
}
CANVIT_B_BUFFER = {"num_envs": 64, "n_steps": 64}


def buffer_bytes(
    space: spaces.Dict, actions: spaces.Space[Any], *, num_envs: int, n_steps: int
) -> int:
    """Bytes of PPO's rollout buffer."""
    buffer = DictRolloutBuffer(n_steps, space, actions, n_envs=num_envs)
    arrays = [*buffer.observations.values(), buffer.actions, buffer.rewards, buffer.advantages]
    arrays += [buffer.returns, buffer.episode_starts, buffer.log_probs, buffer.values]
    return sum(array.nbytes for array in arrays)


def canvit_b() -> Rollout:
    """CanViT-B's shapes and defaults, without its memory."""
    with torch.device("meta"):
        model = CanViTForImageClassification(canvit_config=CanViTConfig(), n_classes=1)
    task = Classification(model=model, class_names=("any",))
    return Rollout(task=task, glimpse=OFFICIAL_GLIMPSE)


def backbone_flops(rollout: Rollout) -> float:
    """FLOPs of the backbone for a chosen glimpse, with its share of the initial one."""
    flops = rollout.task.model.glimpse_flops(
        glimpse_size_px=rollout.glimpse.glimpse_size_px,
        canvas_grid_size=rollout.glimpse.canvas_grid_size,
    )
    initial = 0 if rollout.initial_glimpse is None else 1
    return flops * (1 + initial / rollout.budget)


def measure(
    env_id: str, *, num_envs: int, updates: int, device: str = "cpu", **env_kwargs: Any
) -> dict[str, Any]:
    """PPO's wall-clock time for the glimpses before an update and the update, medians over some.

    seconds: by part. glimpses_per_second: of all parts together. mflop_per_glimpse: arithmetic of
    the backbone, initial glimpses included, and of the update, in millions.
    """
    settings = load_hyperparameters(env_id)
    glimpses = settings["num_envs"] * settings["ppo"]["n_steps"]
    if glimpses % num_envs:
        raise ValueError(
            f"{num_envs} environments can not share the {glimpses} glimpses before an update "
            "evenly; give a divisor."
        )
    n_steps = glimpses // num_envs
    env = make_sb3_env(env_id, num_envs=num_envs, seed=0, **{**settings["env"], **env_kwargs})
    learner = new_ppo(env, settings, seed=0, device=device, n_steps=n_steps)
    stopwatch = Stopwatch(clock_of(device))
    rounds = []
    with (
        patch.object(learner, "train", stopwatch.timed("update", learner.train)),
        patch.object(
            learner, "collect_rollouts", stopwatch.timed("policy", learner.collect_rollouts)
        ),
        patch.object(env, "step_wait", stopwatch.timed("environment", env.step_wait)),
    ):
        for _ in range(updates + 1):
            stopwatch.seconds.clear()
            learner.learn(glimpses, reset_num_timesteps=False)
            rounds.append(dict(stopwatch.seconds))
    with FlopCounterMode(display=False) as counter:
        learner.train()
    env.close()
    seconds = {part: median(each[part] for each in rounds[1:]) for part in PARTS}
    return {
        "num_envs": num_envs,
        "n_steps": n_steps,
        "glimpses_per_second": glimpses / sum(seconds.values()),
        "seconds": seconds,
        "mflop_per_glimpse": {
            "backbone": backbone_flops(env.envs.rollout) / 1e6,
            "update": counter.get_total_flops() / glimpses / 1e6,
        },
    }


def format_table(figures: dict[str, Any]) -> str:
    """One line a number of environments, and the memory of CanViT-B's buffer."""
    head = "  ".join(f"{part:>11}" for part in PARTS)
    lines = [
        f"{described(figures)}: PPO on {figures['env']}, {figures['glimpses']} glimpses an update, "
        f"{figures['n_epochs']} epochs in batches of {figures['batch_size']}",
        "",
        f"envs  steps  glimpses/s  {head}",
    ]
    for record in figures["results"]:
        total = sum(record["seconds"].values())
        shares = "  ".join(f"{record['seconds'][part] / total:11.0%}" for part in PARTS)
        lines.append(
            f"{record['num_envs']:4}  {record['n_steps']:5}  "
            f"{record['glimpses_per_second']:10.0f}  {shares}"
        )
    work, large = figures["results"][0]["mflop_per_glimpse"], figures["canvit_b"]
    lines += [
        "",
        f"a glimpse's arithmetic: backbone {work['backbone']:.0f} MFLOP, update "
        f"{work['update']:.0f}; CanViT-B would be {large['mflop_per_glimpse']:.0f}",
        f"rollout buffer at CanViT-B's defaults, {large['num_envs']} envs x {large['n_steps']} "
        f"steps: {large['buffer_bytes'] / 2**20:.0f} MiB",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_agents.learning.throughput", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--env", default="CanViT-Emoji-v0")
    parser.add_argument("--num-envs", nargs="+", type=int, default=NUM_ENVS)
    parser.add_argument("--updates", type=int, default=7, help="that are timed, after a first one")
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())

    settings = load_hyperparameters(args.env)
    ppo = settings["ppo"]
    large = canvit_b()
    space = Observations(rollout=large).space
    figures = machine(device=args.device, precision=args.precision)
    figures |= {
        "env": args.env,
        "glimpses": settings["num_envs"] * ppo["n_steps"],
        "n_epochs": ppo["n_epochs"],
        "batch_size": ppo["batch_size"],
        "results": [
            measure(
                args.env,
                num_envs=num_envs,
                updates=args.updates,
                device=args.device,
                precision=args.precision,
            )
            for num_envs in args.num_envs
        ],
        "canvit_b": {
            **CANVIT_B_BUFFER,
            "buffer_bytes": buffer_bytes(space, spaces.Box(-1, 1, (3,)), **CANVIT_B_BUFFER),
            "mflop_per_glimpse": backbone_flops(large) / 1e6,
        },
    }
    print(format_table(figures))
    if args.out:
        write(figures, args.out)


if __name__ == "__main__":
    main()
