"""README and docs: tables are saved outputs, code runs, commands parse, links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from canvit_agents.cli.main import make_parser
from canvit_gym.checkpoint_ids import IN1K_FINETUNED
from canvit_gym.envs.options import AllOptions

ROOT = Path(__file__).parents[1]
TABLES = runpy.run_path(str(ROOT / "docs/fill_tables.py"))
PAGES: tuple[Path, ...] = TABLES["PAGES"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
ALL = "\n".join(TEXTS.values())
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(TEXTS[page]) if language in languages]


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_tables_are_those_of_the_saved_files(page: str) -> None:
    assert TABLES["filled"](TEXTS[page]) == TEXTS[page], "run python docs/fill_tables.py"


def test_every_saved_result_has_its_block() -> None:
    summaries = (ROOT / "agents/pretrained").glob("*/summary_*.json")
    for path in (*map(str, (p.relative_to(ROOT) for p in summaries)), *TABLES["BENCHMARKS"]):
        assert f"<!-- {path} -->\n```\n" in ALL, path


def test_a_block_that_disagrees_is_written_anew() -> None:
    text = TEXTS["README.md"]
    start = text.index("```\n", text.index("summary_test.json -->"))
    wrong = text[:start] + "```\nsomething else\n" + text[text.index("```\n", start + 4) :]
    assert wrong != text and TABLES["filled"](wrong) == text


# -- code ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, imagenet_folder: Path, imagenet_checkpoint: str
) -> Path:
    """A folder with what the pages assume: ImageNet pictures, and a hub's checkpoints (small)."""
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(imagenet_folder, place / "path/to/imagenet/val")
    shutil.copytree(imagenet_checkpoint, place / "hub" / IN1K_FINETUNED)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXTS if blocks(page, "python")])
def test_code_runs(page: str, workplace: Path) -> None:
    """All blocks of a page, one after the other, as a reader would run them."""
    code = "\n".join(blocks(page, "python"))
    environment = {**os.environ, "CANVIT_HUB_ROOT": str(workplace / "hub"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def commands() -> list[str]:
    lines = [
        line for page in TEXTS for body in blocks(page, "", "console") for line in body.splitlines()
    ]
    return [line for line in lines if line.startswith("canvit-gym ")]


def test_commands_are_shown() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    make_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", ALL, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXTS[page]):
        if not link.startswith("https://"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_every_keyword_is_explained() -> None:
    page = TEXTS["docs/environments.md"]
    table = page[page.index("## Keyword arguments") : page.index("## Observations")]
    for name in get_type_hints(AllOptions):
        assert f"`{name}`" in table, name


def test_the_readme_is_two_screens() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 100
