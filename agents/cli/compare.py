"""`canvit-gym compare`."""

from __future__ import annotations

import argparse

HELP = "compare two saved policies scene by scene"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("first", "second"):
        parser.add_argument(
            name,
            metavar="DIR:POLICY",
            help="a directory that evaluate wrote, and a policy where it holds several",
        )


def run(args: argparse.Namespace) -> None:
    from canvit_agents.judging.compare import compare, find_run, format_comparison

    print(format_comparison(compare(find_run(args.first), find_run(args.second))))
