"""Run notebooks top to bottom and keep what they show: `make notebooks`, before a commit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path, *, directory: Path) -> nbformat.NotebookNode:
    """The notebook as it is after a run in `directory`, with this repository's code.

    Raises nbclient.exceptions.CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # Times, and which Python it was, would differ in every commit.
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    for path in map(Path, sys.argv[1:] or sorted(HERE.glob("*.ipynb"))):
        nbformat.write(execute(path, directory=HERE), path)
        print(path)


if __name__ == "__main__":
    main()
