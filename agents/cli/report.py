"""`canvit-gym report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from canvit_agents.cli.arguments import at_least_0

HELP = "write a saved run as one HTML file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=Path, metavar="RUN", help="a directory that evaluate or headroom wrote"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the report (default: report.html in RUN)"
    )
    parser.add_argument(
        "--episodes",
        type=at_least_0,
        metavar="N",
        help="how many are shown glimpse by glimpse (default: 6, or 3 where they are long); they "
        "are played again, which needs the run's scenes and weights",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="whose episodes (default: the first trained policy's, else the first's)",
    )


def run(args: argparse.Namespace) -> None:
    from canvit_agents.pages.report import write_report

    written = write_report(
        args.directory, out=args.out, episodes=args.episodes, policy=args.policy, progress=True
    )
    if written.left_out is not None:
        print(written.left_out, file=sys.stderr)
    print(f"The report is {written.path} ({written.path.stat().st_size / 1e6:.1f} MB).")
