"""How to install what is missing: a command that works from where the package came from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from canvit_gym import errors


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "canvit-gym[agents]"),  # from the index
        ({"url": "file:///home/me/my%20work", "dir_info": {}}, "/home/me/my work[agents]"),
        ({"url": "file:///home/me/canvit_gym-0.1.0-py3-none-any.whl", "archive_info": {}},
         "/home/me/canvit_gym-0.1.0-py3-none-any.whl[agents]"),
        ({"url": "https://example.org/canvit-gym.git", "vcs_info": {"vcs": "git"}},
         "canvit-gym[agents] @ git+https://example.org/canvit-gym.git"),
        ({"url": "https://example.org/canvit-gym.zip", "archive_info": {}},
         "canvit-gym[agents] @ https://example.org/canvit-gym.zip"),
        ([], "canvit-gym[agents]"),
        ("broken", "canvit-gym[agents]"),
    ],
)  # fmt: skip
def test_the_hint_names_where_the_package_came_from(
    origin: Any, requirement: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = None if origin is None else "{" if origin == "broken" else json.dumps(origin)
    installed = SimpleNamespace(read_text=lambda name: text)
    monkeypatch.setattr(errors.metadata, "distribution", lambda name: installed)
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages/canvit_gym/errors.py"))
    hint = str(errors.missing_extra("This", package="pyarrow", extra="agents"))
    assert hint == f"This needs pyarrow, which is not installed; run `pip install '{requirement}'`."


def test_in_a_checkout_the_hint_is_the_checkout() -> None:
    checkout = Path(errors.__file__).parents[1]
    assert f"pip install '{checkout}[agents]'" in str(
        errors.missing_extra("This", package="pyarrow", extra="agents")
    )
