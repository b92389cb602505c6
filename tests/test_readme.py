"""The README's results are the saved outputs, word for word."""

import json
from pathlib import Path

from agents.evaluate import format_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "agents/pretrained/CanViT-Emoji-v0"


def test_results_tables_are_those_of_the_saved_evaluations() -> None:
    for split in ("test", "test_style"):
        summary = json.loads((RESULTS / f"summary_{split}.json").read_text())
        assert format_table(summary).strip() in README


def test_speed_figures_are_those_of_the_saved_benchmark() -> None:
    figures = json.loads((RESULTS / "benchmark.json").read_text())
    assert f"{figures['glimpses_per_second']:.0f} glimpses/s" in README
    assert f"{100 * figures['overhead_share']:.0f} % of a step" in README
    assert f"{figures['first_observation_seconds']:.1f} s" in README
