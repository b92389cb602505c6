"""`canvit-gym headroom`."""

from __future__ import annotations

import argparse

from canvit_agents.cli.arguments import (
    add_environment,
    add_judging,
    count_scenes,
    environment_kwargs,
    positive,
)

HELP = "before any training: is there anything to learn about where to look?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser)
    add_judging(parser)
    parser.add_argument(
        "--candidates",
        type=positive,
        default=24,
        metavar="K",
        help="viewpoints that the oracle tries before each glimpse (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import make_benchmark
    from canvit_agents.judging.headroom import format_headroom, headroom

    kwargs = environment_kwargs(args)
    benchmark = make_benchmark(args.env, split=args.split, env_kwargs=kwargs)
    train = make_benchmark(args.env, split="train", env_kwargs=kwargs).env.scenes
    summary = headroom(
        benchmark,
        train=train,
        num_scenes=count_scenes(args.scenes, len(benchmark.env.scenes)),
        num_candidates=args.candidates,
        out=args.out,
        seed=args.seed,
    )
    print(format_headroom(summary))
    if args.out is not None:
        print(f"\nSaved in {args.out / 'summary.json'}.")
