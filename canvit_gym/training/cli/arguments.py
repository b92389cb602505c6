"""Arguments that the commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canvit_gym.training.settings import Command, load_preset, make_run, merged, parse_settings

if TYPE_CHECKING:
    from canvit_gym.training.processes import Processes


def add_run(parser: argparse.ArgumentParser, *, preset: str) -> None:
    """preset: the names to show."""
    parser.add_argument(
        "--preset", required=True, metavar="NAME", help=f"{preset}, or a YAML file of settings"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of the run"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings in place of the preset's, such as lr=1e-4",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that prepare scenes (%(default)s)"
    )
    parser.set_defaults(goes_on="the same command with --resume goes on from the last snapshot")


def add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the core (needs a C++ compiler)"
    )


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that measure what was trained."""
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="at most so many scenes, evenly spaced (default: all)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .json file for the figures"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that prepare scenes (%(default)s)"
    )
    parser.set_defaults(goes_on="nothing was written")


def check_measuring(args: argparse.Namespace) -> None:
    """Raise ValueError or OSError for arguments of `add_measuring` that would fail later."""
    from canvit_gym.errors import require_device, require_int
    from canvit_gym.files import require_writable

    if args.limit is not None:
        require_int("limit", args.limit, at_least=1, what="scenes")
    require_int("batch_size", args.batch_size, at_least=1)
    require_int("workers", args.workers, at_least=0)
    require_device(args.device)
    if args.out.is_dir():
        raise IsADirectoryError(f"{args.out} is a folder; give --out a file, such as x.json.")
    require_writable(args.out.parent)


def report(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures of a measurement, whole, and say where."""
    from canvit_gym.files import write_json

    write_json(args.out, figures)
    print(f"{figures['num_scenes']} scenes; the figures are in {args.out}.")


def settings_of(
    args: argparse.Namespace, kinds: Mapping[str, type[Any]], *, command: Command
) -> Any:
    """The run that the arguments describe.

    kinds: its dataclass, by the preset's `recipe`; the first where it has none.

    Raises FileExistsError where `out` holds one and --resume was not given, and ValueError for
    settings that make no sense.
    """
    from canvit_gym.errors import require_choice
    from canvit_gym.training.common import has_snapshot

    settings = load_preset(args.preset, command=command)
    recipe = settings.pop("recipe", next(iter(kinds)))
    require_choice("recipe", recipe, kinds)
    run = make_run(kinds[recipe], merged(settings, parse_settings(args.set)))
    if has_snapshot(args.out) and not args.resume:
        raise FileExistsError(
            f"{args.out} holds a run already; add --resume to continue it, or choose another --out."
        )
    return run


def require_alone(processes: Processes, *, what: str) -> None:
    """Raise ValueError where there are several processes, which `what` does not share."""
    if processes.world > 1:
        raise ValueError(
            f"{what} trains in one process, but there are {processes.world}; run it without "
            "torchrun."
        )
