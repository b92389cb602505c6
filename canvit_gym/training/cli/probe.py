"""`canvit-gym probe`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_run, settings_of
from canvit_gym.training.settings import preset_names

HELP = (
    "train a segmentation probe of a frozen CanViT's canvas, or of a teacher's patches, on ADE20K"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, preset=", ".join(preset_names("probe")))
    parser.add_argument("--scenes", required=True, metavar="DIR", help="an ADE20K folder")
    parser.add_argument("--backbone", metavar="CHECKPOINT", help="whose canvas is read")
    parser.add_argument(
        "--teacher", metavar="NAME", help="in its place, for presets of a passive baseline"
    )


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training.ade20k_probe import ADE20KProbeTraining, train_ade20k_probe
    from canvit_gym.training.processes import launched

    settings = settings_of(args, ADE20KProbeTraining, command="probe")
    with launched(args.device) as (processes, device):
        train_ade20k_probe(
            settings,
            scenes=args.scenes,
            out=args.out,
            backbone=args.backbone,
            teacher=args.teacher,
            device=device,
            workers=args.workers,
            processes=processes,
        )
    if processes.is_first:
        print(f"The probe of the best validation is in {args.out}.")
