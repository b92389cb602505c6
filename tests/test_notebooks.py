"""The notebooks run, and what is committed is what a run shows."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canvit_gym.envs.vector_env import COUNTS_SAME_STEP

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))

# Of the machine that it ran on, or of nothing that a reader wants.
_NOISE = re.compile(r"/(home|root|tmp|work|Users|usr|opt)/|\b[A-Z]:\\|Warning|\d+%\|")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(outputs: list[Any]) -> Iterator[str]:
    for output in outputs:
        yield "".join(output.get("text", ""))
        yield "".join(output.get("data", {}).get("text/plain", ""))


def kinds(outputs: list[Any]) -> list[tuple[str, ...]]:
    """What sort of thing each output is."""
    return [
        (output["output_type"], output.get("name", ""), *sorted(output.get("data", ())))
        for output in outputs
    ]


def check_outputs(notebook: Any) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream", "display_data", "execute_result",
    }  # fmt: skip
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not [text for text in texts(outputs) if _NOISE.search(text)]
    pictures = [kind for kind in kinds(outputs) if {"image/png", "image/jpeg"} & {*kind}]
    assert pictures


def test_there_are_three() -> None:
    assert NOTEBOOKS == [
        "01_first_look.ipynb",
        "02_train_a_policy.ipynb",
        "03_judge_a_policy.ipynb",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_shows_pictures_and_nothing_of_the_machine(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size < 1_000_000
    notebook = json.loads(path.read_text(encoding="utf-8"))
    check_outputs(notebook)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert not any(cell["metadata"] for cell in notebook["cells"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name: str) -> None:
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    prose = "".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert target.startswith("https://") or (FOLDER / target).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    execute = runpy.run_path(str(FOLDER / "execute.py"))["execute"]
    ran = execute(FOLDER / name, directory=tmp_path)
    if not COUNTS_SAME_STEP:  # the warning that says so is no output of the notebook's
        for cell in code_cells(ran):
            cell["outputs"] = [kept for kept in cell["outputs"] if kept.get("name") != "stderr"]
    check_outputs(ran)
    committed = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    for new, old in zip(code_cells(ran), code_cells(committed), strict=True):
        assert kinds(new["outputs"]) == kinds(old["outputs"])
    assert not list(tmp_path.iterdir())  # it leaves nothing where it was opened
