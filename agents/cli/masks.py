"""`canvit-gym masks`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the IoU of each mask of a saved run, and how large it is, as a Parquet file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=Path, metavar="RUN", help="a directory that evaluate wrote"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .parquet file")


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.masks import write_mask_rows

    rows = write_mask_rows(args.directory, out=args.out)
    print(f"{rows} rows: {args.out}")
