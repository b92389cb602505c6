"""The commands that train, for torchrun:
`torchrun --nproc-per-node N -m canvit_gym.training pretrain ...`; `canvit-gym` has them too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from canvit_gym.errors import with_hint
from canvit_gym.training.cli import finetune, pretrain, probe

COMMANDS: dict[str, ModuleType] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "probe": probe,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a mistake in the arguments is one sentence on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m canvit_gym.training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.set_defaults(run=module.run, command=name)
        module.add_arguments(command)
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError):
            error = with_hint(error, what=f"The command {args.command}")
        rank = os.environ.get("RANK", "0")
        print(f"error{'' if rank == '0' else f' in process {rank}'}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
