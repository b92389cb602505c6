"""Run the command line from a checkout: `python -m agents` is `canvit-gym`."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if __package__ == "agents" and "canvit_agents" not in sys.modules:
    # The code that runs is this checkout's, whether or not the package is installed.
    folder = Path(__file__).resolve().parent
    spec = spec_from_file_location(
        "canvit_agents", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["canvit_agents"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["canvit_agents"])

from canvit_agents.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
