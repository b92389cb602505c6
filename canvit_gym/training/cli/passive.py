"""`canvit-gym passive`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_measuring, check_measuring, report

HELP = "measure what a teacher itself reaches on whole pictures, the passive baseline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher", required=True, metavar="NAME", help="such as efficientnet-lite0"
    )
    parser.add_argument(
        "--scenes",
        required=True,
        metavar="DIR",
        help="labelled pictures such as ImageNet's, album, or an ADE20K folder",
    )
    parser.add_argument(
        "--probe",
        metavar="CHECKPOINT",
        help="linear probe of the teacher's CLS, or for ADE20K a segmentation probe of its patches "
        "(default: the classifier that the teacher brings)",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        required=True,
        metavar="PX",
        help="sides of the pictures that it sees",
    )
    parser.add_argument(
        "--precision", default="float32", help="of the teacher: float32 or bfloat16 (%(default)s)"
    )
    add_measuring(parser)


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training.passive import measure
    from canvit_gym.training.teachers import load_teacher

    check_measuring(args)
    found = measure(
        teacher=load_teacher(args.teacher, device=args.device),
        scenes=args.scenes,
        sizes_px=args.sizes,
        probe=args.probe,
        limit=args.limit,
        precision=args.precision,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    names = [name for name in found["sizes"][0] if name != "picture_size_px"]
    print(f"{'px':>6}" + "".join(f"{name:>8}" for name in names))
    for row in found["sizes"]:
        print(f"{row['picture_size_px']:>6}" + "".join(f"{row[name]:>8.4f}" for name in names))
    report(args, found)
