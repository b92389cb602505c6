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
    from canvit_agents.pages.play import make_playground, serve

    playground = make_playground(
        args.env,
        split=args.split,
        env_kwargs=environment_kwargs(args),
        policy=args.policy,
        seed=args.seed,
    )
    serve(playground, port=args.port, browser=not args.no_browser)
