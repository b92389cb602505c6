"""`canvit-gym finetune`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_compile, add_run, settings_of
from canvit_gym.training.settings import preset_names

HELP = "train a classifier on labelled scenes, after a linear probe was fused into it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, preset=", ".join(preset_names("finetune")))
    parser.add_argument(
        "--scenes", required=True, metavar="DIR", help="labelled pictures, such as ImageNet's"
    )
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="labelled pictures to validate on (default: some of --scenes, held out)",
    )
    parser.add_argument(
        "--init", required=True, metavar="CHECKPOINT", help="pretrained, or a classifier"
    )
    parser.add_argument(
        "--probe", metavar="CHECKPOINT", help="linear probe of the teacher, fused into --init"
    )
    add_compile(parser)


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training.finetune import FineTuning, finetune
    from canvit_gym.training.processes import launched

    settings = settings_of(args, {"published": FineTuning}, command="finetune")
    with launched(args.device) as (processes, device):
        finetune(
            settings,
            init=args.init,
            probe=args.probe,
            scenes=args.scenes,
            out=args.out,
            validation=args.validation,
            device=device,
            workers=args.workers,
            compile_model=args.compile,
            processes=processes,
        )
    if processes.is_first:
        print(f"The classifier of the best validation is in {args.out}.")
