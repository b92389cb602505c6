"""`canvit-gym demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from canvit_agents.cli.arguments import EMOJI, at_least_0, positive

HELP = f"train a short policy in {EMOJI}, judge it against the baselines, draw its episodes"


_GLIMPSES_PER_MINUTE = 20_000  # on two cores of 2023, learning included


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument(
        "--timesteps",
        type=positive,
        default=60_000,
        help="of PPO, and as many of its warm start (%(default)s)",
    )
    parser.add_argument("--scenes", type=positive, default=500, help="judged on (%(default)s)")
    parser.add_argument("--seed", type=at_least_0, default=0)


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import evaluate, format_table, make_benchmark, scene_indices
    from canvit_agents.learning.train import train
    from canvit_agents.pages.filmstrips import draw_filmstrips
    from canvit_agents.policies import load_policy, make_policies, read_record

    minutes = 2 * args.timesteps / _GLIMPSES_PER_MINUTE + args.scenes / 500
    print(
        f"This takes about {max(1, round(minutes))} minutes on two cores of a laptop.\n\n"
        f"1/3  Training on {EMOJI}: a warm start of {args.timesteps} glimpses, then PPO learns "
        "where to look from as many."
    )
    directory = train(
        env_id=EMOJI,
        out=args.out / "policy",
        env_kwargs={},
        timesteps=args.timesteps,
        seed=args.seed,
        num_envs=None,
        resume=(args.out / "policy").exists(),
        warm_start=args.timesteps,
    )
    print(f"2/3  Judging it on {args.scenes} unseen scenes.")
    record = read_record(directory)
    benchmark = make_benchmark(EMOJI, split="test", env_kwargs=record.env_kwargs)
    learned = load_policy(directory, env_id=EMOJI, env=benchmark.env)
    baselines = make_policies(
        ("full_then_random", "coarse_to_fine", "target"), env_id=EMOJI, env=benchmark.env
    )
    summary = evaluate(
        {"learned": learned, **baselines},
        benchmark=benchmark,
        num_scenes=args.scenes,
        out=args.out / "evaluation",
        seed=args.seed,
    )
    print("3/3  Drawing episodes.")
    indices = scene_indices(benchmark.env.scenes, args.scenes)[:6].tolist()
    pictures = args.out / "pictures"
    draw_filmstrips(
        {"learned": learned},
        scenes=benchmark.env.scenes,
        indices=indices,
        directory=pictures,
        seed=args.seed,
    )
    print(f"\n{format_table(summary)}\n")
    print(f"Table as JSON: {args.out / 'evaluation' / 'summary.json'}")
    print(f"Pictures of episodes, t0 at the top: {pictures}")
    print(f"The policy: {directory}\n")
    print("Go on (source .venv/bin/activate once, where make demo made it):")
    print(f"  canvit-gym play --env {EMOJI} --policy pretrained")
    print(f"  canvit-gym report {args.out / 'evaluation'}")
