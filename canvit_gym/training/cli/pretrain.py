"""`canvit-gym pretrain`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_compile, add_run, require_alone, settings_of
from canvit_gym.training.settings import preset_names

HELP = "train a CanViT to predict what a frozen teacher sees in whole scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, preset=", ".join(preset_names("pretrain")))
    parser.add_argument("--scenes", metavar="DIR", help="folder of pictures, or emoji")
    parser.add_argument("--teacher", metavar="NAME", help="such as efficientnet-lite0")
    parser.add_argument(
        "--features",
        metavar="DIR",
        help="the teacher's features of --scenes, of `canvit-gym features export` (default: the "
        "teacher is asked as it goes)",
    )
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="pictures to validate on (default: some of --scenes, held out)",
    )
    parser.add_argument(
        "--init", metavar="CHECKPOINT", help="begin with the weights of another run or checkpoint"
    )
    add_compile(parser)


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training import mini
    from canvit_gym.training.distill import Distillation
    from canvit_gym.training.pretrain import pretrain
    from canvit_gym.training.processes import launched

    kinds = {"distillation": Distillation, "labels": mini.MiniTraining}
    settings = settings_of(args, kinds, command="pretrain")
    with launched(args.device) as (processes, device):
        if isinstance(settings, mini.MiniTraining):
            _require(args, not_given=("scenes", "teacher", "features", "validation", "init"))
            require_alone(processes, what="The mini")
            mini.train(settings, out=args.out, device=device, compile_model=args.compile)
        else:
            _require(args, given=("scenes", "teacher"))
            pretrain(
                settings,
                scenes=args.scenes,
                teacher=args.teacher,
                out=args.out,
                features=args.features,
                validation=args.validation,
                init=args.init,
                device=device,
                workers=args.workers,
                compile_model=args.compile,
                processes=processes,
            )
    if processes.is_first:
        print(f"The checkpoint is in {args.out}.")


def _require(
    args: argparse.Namespace, *, given: tuple[str, ...] = (), not_given: tuple[str, ...] = ()
) -> None:
    """Raise ValueError where an argument is missing, or given without a use."""
    missing = [f"--{name}" for name in given if getattr(args, name) is None]
    useless = [f"--{name}" for name in not_given if getattr(args, name) is not None]
    if missing:
        raise ValueError(f"The preset {args.preset!r} needs {' and '.join(missing)}; give that.")
    if useless:
        raise ValueError(
            f"The preset {args.preset!r} has no use for {' and '.join(useless)}; leave that out."
        )
