"""Tables of README and docs, written from saved results: `python docs/fill_tables.py`.

A block such as

    <!-- agents/pretrained/CanViT-Emoji-v0/summary_test.json -->
    ```
    ...
    ```

holds `format_table` of that summary, or that of the benchmark where the file is one of
`BENCHMARKS`. A test fails when a block and its file disagree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from canvit_agents.judging import summary
from canvit_agents.learning import throughput
from canvit_gym.bench import env, model, scenes, training

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BENCHMARKS = {
    "benchmarks/model.json": model.format_table,
    "benchmarks/env.json": env.format_table,
    "benchmarks/scenes.json": scenes.format_table,
    "benchmarks/training.json": training.format_table,
    "benchmarks/learning.json": throughput.format_table,
}
_BLOCK = re.compile(r"(?P<mark><!-- (?P<path>\S+\.json) -->\n)```\n.*?```\n", re.DOTALL)


def filled(text: str) -> str:
    """The text with every block written anew from its file, which is given from the root."""

    def table(block: re.Match[str]) -> str:
        values = json.loads((ROOT / block["path"]).read_text(encoding="utf-8"))
        format_table = BENCHMARKS.get(block["path"], summary.format_table)
        return f"{block['mark']}```\n{format_table(values)}\n```\n"

    return _BLOCK.sub(table, text)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
