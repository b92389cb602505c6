"""Run directories whose JSON files are damaged: one sentence that names the file, or no harm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import classified

from canvit_agents.judging.compare import compare, find_run, format_comparison
from canvit_agents.judging.evaluate import save_results
from canvit_agents.judging.evidence import evidence_path, hash_of, save_evidence
from canvit_agents.judging.headroom import _saved_sequence
from canvit_agents.judging.summary import summarize
from canvit_agents.pages.report import write_report

NOT_JSON = (b"", b"{", b"\x00\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"null", b"NaN")
OTHER = (None, True, -1, 0.5, "", [], {}, [[]], {"a": []}, "../x", 10**400)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    correct = np.random.default_rng(0).random((6, 3)) > 0.5
    named = {
        "mine": classified(correct, name="mine", learned=True),
        "full_then_random": classified(~correct, name="full_then_random"),
    }
    for evidence in named.values():
        save_evidence(evidence_path(tmp_path, evidence.settings), evidence)
    save_results(tmp_path, named, summarize(named))
    return tmp_path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of a JSON value are, itself left out."""
    if not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """The value with one part removed or exchanged."""
    value = copy.deepcopy(value)
    every = list(places(value))
    *path, last = every[rng.integers(len(every))]
    parent = value
    for key in path:
        parent = parent[key]
    choice = int(rng.integers(len(OTHER) + 1))
    if choice == len(OTHER):
        del parent[last]
    else:
        parent[last] = OTHER[choice]
    return value


def compared(run: Path) -> None:
    format_comparison(compare(find_run(f"{run}:mine"), find_run(f"{run}:full_then_random")))


def reported(run: Path) -> None:
    write_report(run, out=run / "report.html", episodes=0)


def check(reader: Callable[[Path], None], run: Path, name: str) -> bool:
    """Whether it was refused, in one sentence that names the file or the directory."""
    try:
        reader(run)
    except (ValueError, FileNotFoundError) as error:
        sentence = str(error)
        assert str(run) in sentence and sentence.endswith(".") and "\n" not in sentence
        return True
    return False


@pytest.mark.parametrize(
    ("name", "reader"),
    [("manifest.json", compared), ("manifest.json", reported), ("summary.json", reported)],
)
def test_no_damage_is_a_traceback(name: str, reader: Callable[[Path], None], run: Path) -> None:
    path = run / name
    whole = json.loads(path.read_text())
    for data in NOT_JSON:
        path.write_bytes(data)
        assert check(reader, run, name)
    rng = np.random.default_rng(1)
    for _ in range(60):
        path.write_text(json.dumps(mutated(whole, rng)))
        check(reader, run, name)  # raises whatever is not one sentence
    path.write_text(json.dumps(whole))
    assert not check(reader, run, name)


def test_evidence_that_was_exchanged_is_refused(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    one, other = (run / policy["file"] for policy in manifest["policies"].values())
    one.write_bytes(other.read_bytes())
    for reader in (compared, reported):
        with pytest.raises(ValueError, match="SHA-256 is not the one in the manifest"):
            reader(run)


def test_a_damaged_fixed_sequence_is_searched_again(tmp_path: Path) -> None:
    path = tmp_path / "fixed_sequence.json"
    assert _saved_sequence(path, searched={"budget": 1}) is None
    content: dict[str, Any] = {"searched": {"budget": 1}, "viewpoints": [[0.5, 0.5, 0.5]]}
    whole = {**content, "sha256": hash_of(content)}
    path.write_text(json.dumps(whole))
    assert _saved_sequence(path, searched={"budget": 1}) == ((0.5, 0.5, 0.5),)
    assert _saved_sequence(path, searched={"budget": 2}) is None
    rng = np.random.default_rng(0)
    damaged = [json.dumps(mutated(whole, rng)).encode() for _ in range(60)]
    for data in (*NOT_JSON, *damaged):
        if data == json.dumps(whole).encode():
            continue
        path.write_bytes(data)
        with pytest.warns(UserWarning, match=r"fixed_sequence\.json is damaged"):
            assert _saved_sequence(path, searched={"budget": 1}) is None
