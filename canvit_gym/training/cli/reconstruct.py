"""`canvit-gym reconstruct`."""

from __future__ import annotations

import argparse

from canvit_gym.training.cli.arguments import add_measuring, check_measuring, report

HELP = "measure how closely a pretrained CanViT predicts its teacher's features, glimpse by glimpse"

_COLUMNS = ("patch_cos_standardized", "cls_cos_standardized", "patch_cos_raw", "cls_cos_raw")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, metavar="CHECKPOINT", help="of `pretrain`, or published"
    )
    parser.add_argument("--teacher", required=True, metavar="NAME", help="that it was trained with")
    parser.add_argument(
        "--scenes",
        required=True,
        metavar="DIR",
        help="an ADE20K folder, another folder of pictures, album or emoji",
    )
    parser.add_argument("--glimpses", type=int, default=10, metavar="N", help="R-IID (%(default)s)")
    parser.add_argument(
        "--picture-size",
        type=int,
        metavar="PX",
        help="side of the pictures that the teacher sees (default: as in training)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the viewpoints (%(default)s)")
    parser.add_argument(
        "--precision",
        default="float32",
        help="of the CanViT: float32, or bfloat16 as published (%(default)s)",
    )
    add_measuring(parser)


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training.reconstruction import measure
    from canvit_gym.training.teachers import load_teacher

    check_measuring(args)
    found = measure(
        checkpoint=args.checkpoint,
        teacher=load_teacher(args.teacher, device=args.device),
        scenes=args.scenes,
        num_glimpses=args.glimpses,
        picture_size_px=args.picture_size,
        limit=args.limit,
        seed=args.seed,
        precision=args.precision,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    rows = zip(*(found["mean"][name] for name in _COLUMNS), strict=True)
    print(f"{'':>4}  {'standardized':^16}  {'raw':^16}")
    print(f"{'t':>4}  {'patches':>8}{'CLS':>8}  {'patches':>8}{'CLS':>8}")
    for t, (patch, cls, raw_patch, raw_cls) in enumerate(rows):
        print(f"{t:>4}  {patch:>8.4f}{cls:>8.4f}  {raw_patch:>8.4f}{raw_cls:>8.4f}")
    report(args, found)
