"""Train policies and judge them: `canvit-gym --help`."""

from __future__ import annotations

import argparse
import os
import sys
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from canvit_agents.learning import LEARNERS

EMOJI = "CanViT-Emoji-v0"
_SCENES = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a mistake in the arguments is one sentence on stderr and exit status 2."""
    args = _parser().parse_args(arguments)
    # Policies and environments of one's own are often in the folder that one is in.
    sys.path.append(os.getcwd())
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"Interrupted; {args.goes_on}.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, gym.error.Error) as error:
        if args.traceback:
            raise
        return _refuse(error)
    except TypeError as error:
        # An environment's unknown keyword argument is the user's mistake; any other is ours.
        if args.traceback or "keyword" not in str(error):
            raise
        return _refuse(error)
    return 0


def _refuse(error: Exception) -> int:
    # Gymnasium says behind a TypeError of an environment what it was called with.
    text = str(error).partition(" was raised from the environment creator")[0]
    print(f"error: {text}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canvit-gym",
        description="Train policies that choose where CanViT looks, and judge them.",
    )
    commands = parser.add_subparsers(
        required=True, metavar="headroom | train | evaluate | compare | report | play | demo"
    )
    for add in (
        _add_headroom,
        _add_train,
        _add_evaluate,
        _add_compare,
        _add_report,
        _add_play,
        _add_demo,
    ):
        add(commands)
    return parser


def _add_headroom(commands: Any) -> None:
    parser = _command(
        commands,
        "headroom",
        _headroom,
        help="before any training: is there anything to learn about where to look?",
    )
    _add_environment(parser)
    _add_judging(parser)
    parser.add_argument(
        "--candidates",
        type=_positive,
        default=24,
        metavar="K",
        help="viewpoints that the oracle tries before each glimpse (default: %(default)s)",
    )


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", _train, help="train a policy with PPO")
    _add_environment(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="directory of the run and of its policy"
    )
    parser.add_argument(
        "--timesteps",
        type=_positive,
        help="glimpses to learn from after the warm start (default: the YAML)",
    )
    parser.add_argument(
        "--warm-start",
        type=_at_least_0,
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
        type=_dotted_value,
        metavar="KEY=VALUE",
        help="single hyperparameters, such as ppo.learning_rate=1e-4",
    )
    parser.add_argument("--seed", type=_at_least_0, default=0)
    parser.add_argument(
        "--num-envs", type=_positive, help="scenes side by side (default: the YAML)"
    )
    parser.add_argument(
        "--action",
        choices=("box", "cell"),
        help="how the policy names viewpoints (default: the YAML)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.set_defaults(goes_on="the same command with --resume goes on from the last snapshot")


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, help="play policies on the same unseen scenes"
    )
    _add_environment(parser)
    parser.add_argument(
        "--policies",
        nargs="+",
        required=True,
        metavar="POLICY",
        help="names of baselines (random, full_then_random, coarse_to_fine, fine_to_coarse, "
        "entropy_coarse_to_fine, repeated_full_scene) and upper bounds (target, oracle), "
        "'pretrained', directories of trained policies, hub:owner/name, or module:name of your own",
    )
    _add_judging(parser)
    parser.add_argument(
        "--regret",
        type=_positive,
        metavar="K",
        help="compare every choice with K other viewpoints (K glimpses more each)",
    )
    parser.add_argument(
        "--pictures", type=_positive, metavar="N", help="draw N episodes of each policy in --out"
    )


def _add_compare(commands: Any) -> None:
    parser = _command(
        commands, "compare", _compare, help="compare two saved policies scene by scene"
    )
    for name in ("first", "second"):
        parser.add_argument(
            name,
            metavar="DIR:POLICY",
            help="a directory that evaluate wrote, and a policy where it holds several",
        )


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", _report, help="write a saved run as one HTML file")
    parser.add_argument(
        "directory", type=Path, metavar="RUN", help="a directory that evaluate or headroom wrote"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the report (default: report.html in RUN)"
    )
    parser.add_argument(
        "--episodes",
        type=_at_least_0,
        metavar="N",
        help="how many are shown glimpse by glimpse (default: 6, or 3 where they are long); they "
        "are played again, which needs the run's scenes and weights",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="whose episodes (default: the first trained policy's, else the first's)",
    )


def _add_play(commands: Any) -> None:
    parser = _command(
        commands, "play", _play, help="look by hand, on a page that is served to this machine alone"
    )
    _add_environment(parser)
    _add_split(parser)
    parser.add_argument("--seed", type=_at_least_0, default=0, help="decides which scenes come")
    parser.add_argument(
        "--policy",
        metavar="POLICY",
        help="whom to ask where to look, and to be compared with: as evaluate's, such as "
        "'pretrained' or the directory of a trained policy",
    )
    parser.add_argument(
        "--port", type=_port, default=0, help="of the page (default: one that is free)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        _demo,
        help=f"train a short policy in {EMOJI}, judge it against the baselines, draw its episodes",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument(
        "--timesteps",
        type=_positive,
        default=60_000,
        help="of PPO, and as many of its warm start (%(default)s)",
    )
    parser.add_argument("--scenes", type=_positive, default=500, help="judged on (%(default)s)")
    parser.add_argument("--seed", type=_at_least_0, default=0)


def _command(commands: Any, name: str, run: Any, *, help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(run=run, goes_on="the same command takes up what is finished")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error came up"
    )
    return parser


def _add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, metavar="ID", help=f"such as {EMOJI}")
    parser.add_argument(
        "--budget", type=_positive, help="glimpses to choose (default: the environment's)"
    )
    parser.add_argument(
        "--scenes-root",
        metavar="PATH",
        help="folder of pictures, for CanViT-IN1k-v0 and CanViT-ADE20K-v0",
    )
    parser.add_argument("--device", help="such as cuda (default: cpu)")
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        type=_key_value,
        metavar="KEY=VALUE",
        help="further keyword arguments of the environment",
    )


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenes",
        type=_number_of_scenes,
        metavar="N",
        help=f"how many, or all (default: {_SCENES}, or all where there are fewer)",
    )
    _add_split(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for summary.json, manifest.json and what each policy saw; what is finished "
        "there is not played again",
    )
    parser.add_argument("--seed", type=_at_least_0, default=0)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", default="test", help="which scenes, such as test_style (default: %(default)s)"
    )


def _environment_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "budget": args.budget,
        "scenes": args.scenes_root,
        "device": args.device,
        "action": getattr(args, "action", None),
    }
    return {
        **{key: value for key, value in given.items() if value is not None},
        **dict(args.env_kwargs),
    }


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _at_least_0(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return number


def _port(text: str) -> int:
    number = _at_least_0(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text} is more than 65535")
    return number


def _number_of_scenes(text: str) -> int | str:
    return text if text == "all" else _positive(text)


def _count(asked: int | str | None, available: int) -> int:
    """How many scenes are meant."""
    if asked is None:
        return min(_SCENES, available)
    return available if isinstance(asked, str) else asked


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a plain word


def _dotted_value(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or len(parts) > 2 or not all(part.isidentifier() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor SECTION.KEY=VALUE")
    return parts, _key_value(f"value={value}")[1]


def _nested(settings: Sequence[tuple[list[str], Any]]) -> dict[str, Any]:
    """Single hyperparameters as `train` takes them, those of a section in a dict."""
    nested: dict[str, Any] = {}
    for (first, *rest), value in settings:
        if rest:
            nested.setdefault(first, {})[rest[0]] = value
        else:
            nested[first] = value
    return nested


# The commands. They import what they need, so that --help is quick.


def _headroom(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import make_benchmark
    from canvit_agents.judging.headroom import format_headroom, headroom

    kwargs = _environment_kwargs(args)
    benchmark = make_benchmark(args.env, split=args.split, env_kwargs=kwargs)
    train = make_benchmark(args.env, split="train", env_kwargs=kwargs).env.scenes
    summary = headroom(
        benchmark,
        train=train,
        num_scenes=_count(args.scenes, len(benchmark.env.scenes)),
        num_candidates=args.candidates,
        out=args.out,
        seed=args.seed,
    )
    print(format_headroom(summary))
    if args.out is not None:
        print(f"\nSaved in {args.out / 'summary.json'}.")


def _train(args: argparse.Namespace) -> None:
    from canvit_agents.learning.train import train

    directory = train(
        env_id=args.env.rpartition(":")[2],
        out=args.out,
        env_kwargs=_environment_kwargs(args),
        timesteps=args.timesteps,
        warm_start=args.warm_start,
        seed=args.seed,
        num_envs=args.num_envs,
        learner=args.learner,
        resume=args.resume,
        config=args.config,
        hyperparameters=_nested(args.set),
    )
    print(f"The policy is in {directory}.")


def _evaluate(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import evaluate, format_table, make_benchmark, scene_indices
    from canvit_agents.pages.filmstrips import draw_filmstrips
    from canvit_agents.policies import make_policies, trained_env_kwargs

    if args.pictures and args.out is None:
        raise ValueError("--pictures was given without --out; say with --out where to put them.")
    env_id = args.env.rpartition(":")[2]
    trained = trained_env_kwargs(args.policies, env_id=env_id)
    benchmark = make_benchmark(
        env_id, split=args.split, env_kwargs={**trained, **_environment_kwargs(args)}
    )
    policies = make_policies(args.policies, env_id=env_id, env=benchmark.env)
    scenes = benchmark.env.scenes
    num_scenes = _count(args.scenes, len(scenes))
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


def _compare(args: argparse.Namespace) -> None:
    from canvit_agents.judging.compare import compare, find_run, format_comparison

    print(format_comparison(compare(find_run(args.first), find_run(args.second))))


def _report(args: argparse.Namespace) -> None:
    from canvit_agents.pages.report import write_report

    written = write_report(
        args.directory, out=args.out, episodes=args.episodes, policy=args.policy, progress=True
    )
    if written.left_out is not None:
        print(written.left_out, file=sys.stderr)
    print(f"The report is {written.path} ({written.path.stat().st_size / 1e6:.1f} MB).")


def _play(args: argparse.Namespace) -> None:
    from canvit_agents.pages.play import make_playground, serve

    playground = make_playground(
        args.env,
        split=args.split,
        env_kwargs=_environment_kwargs(args),
        policy=args.policy,
        seed=args.seed,
    )
    serve(playground, port=args.port, browser=not args.no_browser)


def _demo(args: argparse.Namespace) -> None:
    from canvit_agents.judging.evaluate import evaluate, format_table, make_benchmark, scene_indices
    from canvit_agents.learning.train import train
    from canvit_agents.pages.filmstrips import draw_filmstrips
    from canvit_agents.policies import load_policy, make_policies, read_record

    print(
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
    print(f"The policy: {directory}")


if __name__ == "__main__":
    sys.exit(main())
