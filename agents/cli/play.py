"""`canvit-gym play`."""

from __future__ import annotations

import argparse

from canvit_agents.cli.arguments import (
    add_environment,
    add_split,
    at_least_0,
    environment_kwargs,
    port,
)

HELP = "look by hand, on a page that is served to this machine alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser)
    add_split(parser)
    parser.add_argument("--seed", type=at_least_0, default=0, help="decides which scenes come")
    parser.add_argument(
        "--policy",
        metavar="POLICY",
        help="whom to ask where to look, and to be compared with: as evaluate's, such as "
        "'pretrained' or the directory of a trained policy",
    )
    parser.add_argument(
        "--port", type=port, default=0, help="of the page (default: one that is free)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.durations import seconds_per_glimpse
    from canvit_agents.pages.play import make_playground, serve

    print("Loading the environment and its policies.", flush=True)
    playground = make_playground(
        args.env,
        split=args.split,
        env_kwargs=environment_kwargs(args),
        policy=args.policy,
        seed=args.seed,
    )
    rollout = playground.rollout
    glimpse_s = seconds_per_glimpse(rollout, playground.benchmark.env.scenes[0])
    if glimpse_s > 0.5:
        others = len(playground.rivals) * (1 + rollout.budget) * glimpse_s
        print(
            f"A glimpse takes about {glimpse_s:.1f} s here; at the end of a game the other "
            f"policies play it too, about {others:.0f} s.",
            flush=True,
        )
    serve(playground, port=args.port, browser=not args.no_browser)
