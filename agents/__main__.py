"""Run the command line from a checkout: `python -m agents` is `canvit-gym`."""

import sys

from canvit_agents.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
