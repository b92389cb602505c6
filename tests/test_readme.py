"""The README's results are the saved outputs, word for word."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = runpy.run_path(str(ROOT / "docs/fill_tables.py"))
BENCHMARKS, README, filled = (TABLES[name] for name in ("BENCHMARKS", "README", "filled"))

TEXT = README.read_text(encoding="utf-8")
PRETRAINED = ROOT / "agents/pretrained"


def test_tables_are_those_of_the_saved_evaluations() -> None:
    assert filled(TEXT) == TEXT, "run python docs/fill_tables.py"
    for summary in PRETRAINED.glob("*/summary_*.json"):
        assert f"<!-- {summary.relative_to(PRETRAINED.parents[1])} -->\n```\n" in TEXT


def test_a_block_that_disagrees_is_written_anew() -> None:
    start = TEXT.index("```\n", TEXT.index("summary_test.json -->"))
    wrong = TEXT[:start] + "```\nsomething else\n" + TEXT[TEXT.index("```\n", start + 4) :]
    assert wrong != TEXT and filled(wrong) == TEXT


def test_every_benchmark_has_its_block() -> None:
    for path in BENCHMARKS:
        assert f"<!-- {path} -->\n```\n" in TEXT
