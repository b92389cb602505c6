"""`canvit-gym train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from canvit_agents.cli.arguments import (
    add_environment,
    at_least_0,
    dotted_value,
    environment_kwargs,
    nested,
    positive,
)
from canvit_agents.learning import LEARNERS
from canvit_gym.registration import env_id_of

HELP = "train a policy that chooses where to look"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="directory of the run and of its policy"
    )
    parser.add_argument(
        "--timesteps",
        type=positive,
        help="glimpses to learn from after the warm start (default: the YAML)",
    )
    parser.add_argument(
        "--warm-start",
        type=at_least_0,
        metavar="N",
        help="glimpses of the warm start, 0 for none (default: the YAML, and in proportion where "
        "--timesteps is less than it has)",
    )
    parser.add_argument(
        "--learner", choices=tuple(LEARNERS), default="ppo", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a YAML of hyperparameters (default: the one that this package has for the id)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        type=dotted_value,
        metavar="KEY=VALUE",
        help="single hyperparameters, such as ppo.learning_rate=1e-4",
    )
    parser.add_argument("--seed", type=at_least_0, default=0)
    parser.add_argument("--num-envs", type=positive, help="scenes side by side (default: the YAML)")
    parser.add_argument(
        "--action",
        choices=("box", "cell"),
        help="how the policy names viewpoints (default: the YAML)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.set_defaults(goes_on="the same command with --resume goes on from the last snapshot")


def run(args: argparse.Namespace) -> None:
    from canvit_agents.learning.train import train

    directory = train(
        env_id=env_id_of(args.env),
        out=args.out,
        env_kwargs=environment_kwargs(args),
        timesteps=args.timesteps,
        warm_start=args.warm_start,
        seed=args.seed,
        num_envs=args.num_envs,
        learner=args.learner,
        resume=args.resume,
        config=args.config,
        hyperparameters=nested(args.set),
    )
    print(f"The policy is in {directory}.")
