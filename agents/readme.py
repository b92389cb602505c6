"""The README's tables, written from the saved outputs: `python -m agents.readme`.

A block in the README such as

    <!-- agents/pretrained/CanViT-Emoji-v0/summary_test.json -->
    ```
    ...
    ```

holds `format_table` of that summary. A test fails when a block and its file disagree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from agents.summary import format_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"(?P<mark><!-- (?P<path>\S+\.json) -->\n)```\n.*?```\n", re.DOTALL)


def filled(text: str) -> str:
    """The text with every block written anew from its file, which is given from the root."""

    def table(block: re.Match[str]) -> str:
        summary = json.loads((ROOT / block["path"]).read_text(encoding="utf-8"))
        return f"{block['mark']}```\n{format_table(summary)}\n```\n"

    return _BLOCK.sub(table, text)


def main() -> None:
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
