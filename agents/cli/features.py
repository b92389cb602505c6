"""`canvit-gym features`."""

from __future__ import annotations

import argparse
from pathlib import Path

from canvit_agents.cli.arguments import positive

HELP = "compute a teacher's features of many pictures once, for pretrain"

_TEACHER_SIZE_PX = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="index | export | check")

    index = steps.add_parser("index", help="list pictures in an order shuffled once and for all")
    _add_pictures(index)
    index.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .parquet file")
    index.add_argument("--seed", type=int, help="of the order (default: drawn at random)")

    export = steps.add_parser("export", help="write the shards of features that are missing")
    export.add_argument("index", type=Path, metavar="INDEX", help="what `features index` wrote")
    _add_pictures(export)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the shards")
    export.add_argument("--teacher", required=True, help="such as efficientnet-lite0")
    export.add_argument(
        "--size",
        type=positive,
        default=_TEACHER_SIZE_PX,
        help="side of the pictures that it sees, in pixels (default: %(default)s)",
    )
    export.add_argument(
        "--shards",
        nargs=2,
        type=int,
        metavar=("FIRST", "LAST"),
        help="only these, so that machines can share the work (default: all)",
    )
    export.add_argument("--batch-size", type=positive, default=32)
    export.add_argument("--workers", type=int, default=1, help="processes that read pictures")
    export.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    export.add_argument(
        "--float32", action="store_true", help="run the teacher in float32 (default: bfloat16)"
    )

    check = steps.add_parser("check", help="read all shards and verify them")
    check.add_argument("directory", type=Path, metavar="DIR", help="the shards")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures", metavar="PICTURES", help="a folder of pictures or of tar shards"
    )


def run(args: argparse.Namespace) -> None:
    from canvit_gym.training import features
    from canvit_gym.training.sources import open_pictures

    if args.step == "index":
        index = features.write_index(
            open_pictures(args.pictures, size_px=32), args.out, seed=args.seed
        )
        print(f"{len(index)} pictures: {args.out}")
        return
    if args.step == "check":
        found = features.check(args.directory)
        print(f"{found.rows} pictures in {found.shards} shards, {len(found.failed)} unreadable")
        return
    from canvit_gym.training.teachers import load_teacher

    written = features.export(
        features.read_index(args.index),
        open_pictures(args.pictures, size_px=args.size),
        load_teacher(args.teacher, device=args.device),
        args.out,
        shards=None if args.shards is None else range(args.shards[0], args.shards[1] + 1),
        batch_size=args.batch_size,
        workers=args.workers,
        bfloat16=not args.float32,
        device=args.device,
    )
    print(f"{len(written)} shards written: {args.out}")
