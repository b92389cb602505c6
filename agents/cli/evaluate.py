"""`canvit-gym evaluate`."""

from __future__ import annotations

import argparse

from canvit_agents.cli.arguments import (
    add_environment,
    add_judging,
    count_scenes,
    environment_kwargs,
    positive,
)
from canvit_gym.registration import env_id_of

HELP = "play policies on the same unseen scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser)
    parser.add_argument(
        "--policies",
        nargs="+",
        required=True,
        metavar="POLICY",
        help="names of baselines (random, full_then_random, coarse_to_fine, fine_to_coarse, "
        "entropy_coarse_to_fine, repeated_full_scene) and upper bounds (target, oracle), "
        "'pretrained', directories of trained policies, hub:owner/name, or module:name of your own",
    )
    add_judging(parser)
    parser.add_argument(
        "--regret",
        type=positive,
        metavar="K",
        help="compare every choice with K other viewpoints (K glimpses more each)",
    )
    parser.add_argument(
        "--pictures", type=positive, metavar="N", help="draw N episodes of each policy in --out"
    )


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import evaluate, format_table, make_benchmark, scene_indices
    from canvit_agents.pages.filmstrips import draw_filmstrips
    from canvit_agents.policies import make_policies, trained_env_kwargs

    if args.pictures and args.out is None:
        raise ValueError("--pictures was given without --out; say with --out where to put them.")
    env_id = env_id_of(args.env)
    trained = trained_env_kwargs(args.policies, env_id=env_id)
    benchmark = make_benchmark(
        args.env, split=args.split, env_kwargs={**trained, **environment_kwargs(args)}
    )
    policies = make_policies(args.policies, env_id=env_id, env=benchmark.env)
    scenes = benchmark.env.scenes
    if layout := getattr(scenes, "layout", ""):
        print(f"Scenes: {layout}.")
    num_scenes = count_scenes(args.scenes, len(scenes))
    summary = evaluate(
        policies,
        benchmark=benchmark,
        num_scenes=num_scenes,
        out=args.out,
        seed=args.seed,
        candidates=args.regret,
    )
    print(format_table(summary))
    if args.out is not None:
        print(f"\nSaved in {args.out / 'summary.json'}.")
    if args.pictures:
        indices = scene_indices(scenes, num_scenes)[: args.pictures].tolist()
        draw_filmstrips(
            policies,
            scenes=scenes,
            indices=indices,
            directory=args.out / "pictures",
            seed=args.seed,
        )
        print(f"Pictures of episodes are in {args.out / 'pictures'}.")
