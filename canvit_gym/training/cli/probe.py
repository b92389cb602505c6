"""`canvit-gym probe`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_run, require_alone, settings_of
from canvit_gym.training.settings import preset_names

HELP = "train a probe of a frozen CanViT's canvas, or of a teacher's patches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, preset=", ".join(preset_names("probe")))
    parser.add_argument(
        "--scenes", required=True, metavar="DIR", help="an ADE20K folder; emoji, for mini and ours"
    )
    parser.add_argument("--backbone", metavar="CHECKPOINT", help="whose canvas is read")
    parser.add_argument(
        "--teacher", metavar="NAME", help="in its place, for presets of a passive baseline"
    )


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training import probe
    from canvit_gym.training.ade20k_probe import ADE20KProbeTraining, train_ade20k_probe
    from canvit_gym.training.processes import launched

    kinds = {"published": ADE20KProbeTraining, "ours": probe.ProbeTraining}
    settings = settings_of(args, kinds, command="probe")
    with launched(args.device) as (processes, device):
        if isinstance(settings, probe.ProbeTraining):
            if args.backbone is None or args.teacher is not None:
                raise ValueError(
                    f"The preset {args.preset!r} is of a canvas; give a backbone and no teacher."
                )
            require_alone(processes, what="Our recipe of probes")
            probe.train(
                settings,
                backbone=args.backbone,
                scenes=args.scenes,
                out=args.out,
                device=device,
                workers=args.workers,
            )
        else:
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
