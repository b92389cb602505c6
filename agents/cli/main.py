"""The command line: `canvit-gym --help`. Each command is a module of this folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from canvit_agents.cli import (
    compare,
    demo,
    evaluate,
    features,
    headroom,
    masks,
    play,
    report,
    train,
)
from canvit_gym.errors import UnexpectedKeyword, with_hint
from canvit_gym.training.cli import finetune, passive, pretrain, probe, reconstruct

COMMANDS: dict[str, ModuleType] = {
    "headroom": headroom,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "masks": masks,
    "report": report,
    "play": play,
    "demo": demo,
    "features": features,
    "pretrain": pretrain,
    "finetune": finetune,
    "probe": probe,
    "reconstruct": reconstruct,
    "passive": passive,
}
"""Modules by the command's name; those that train CanViT itself are of `canvit_gym`. Each has HELP,
add_arguments and run, and imports what is heavy when it runs, so that --help is quick."""

_REFUSED, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a mistake in the arguments is one sentence on stderr and exit status 2."""
    args = make_parser().parse_args(arguments)
    # Policies and environments of one's own are often in the folder that one is in.
    sys.path.append(os.getcwd())
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"Interrupted; {args.goes_on}.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read what was printed has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else Python complains at its end
        return 0
    except Exception as error:
        if args.traceback or not _is_users(error):
            raise
        if isinstance(error, ModuleNotFoundError):
            error = with_hint(error, what=f"canvit-gym {args.command}")
        # Gymnasium says behind a TypeError of an environment what it was called with.
        text = str(error).partition(" was raised from the environment creator")[0]
        print(f"error: {text}", file=sys.stderr)
        return _REFUSED
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="canvit-gym",
        description="Train policies that choose where CanViT looks, and judge them.",
    )
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, module in COMMANDS.items():
        text = module.HELP
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(
            run=module.run, command=name, goes_on="the same command takes up what is finished"
        )
        command.add_argument(
            "--traceback", action="store_true", help="show where in the code an error came up"
        )
        module.add_arguments(command)
    return parser


def _is_users(error: Exception) -> bool:
    """Whether an error is about what the user gave, and so says all in its sentence."""
    import gymnasium as gym

    kinds = (ValueError, OSError, ImportError, UnexpectedKeyword, gym.error.Error)
    return isinstance(error, kinds)


if __name__ == "__main__":
    sys.exit(main())
