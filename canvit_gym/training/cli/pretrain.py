"""`canvit-gym pretrain`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_compile, add_run, settings_of
from canvit_gym.training.settings import preset_names

HELP = "train a CanViT to predict what a frozen teacher sees in whole scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, preset=", ".join(preset_names("pretrain")))
    parser.add_argument(
        "--scenes", required=True, metavar="DIR", help="folder of pictures, or emoji"
    )
    parser.add_argument(
        "--teacher", required=True, metavar="NAME", help="such as efficientnet-lite0"
    )
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
    from canvit_gym.training.distill import Distillation
    from canvit_gym.training.pretrain import pretrain
    from canvit_gym.training.processes import launched

    settings = settings_of(args, Distillation, command="pretrain")
    with launched(args.device) as (processes, device):
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
