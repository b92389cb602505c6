"""Files are written whole or not at all; what is wrong with one is a sentence that names it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from canvit_gym.files import read_json, require_writable, whole_file, write_json, write_text


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.json"
    write_json(path, {"a": [1, 2.5, None], "b": "ä"})
    assert read_json(path, fields={"a": list, "b": str}, hint="x") == {
        "a": [1, 2.5, None],
        "b": "ä",
    }
    assert [p.name for p in path.parent.iterdir()] == ["values.json"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_former_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "text"
    write_text(path, "before")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["text"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    named = pytest.raises(OSError, match=r"weights can not be written: No space.*; free")
    with named as raised, whole_file(path) as partial:
        partial.write_bytes(b"1")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    assert str(raised.value).count("\n") == 0


def test_a_place_that_can_not_be_written_is_found_out_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"{place} can not be written: .*file, so choose another"):
            require_writable(place)


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("", {}, "Expecting value"),
        ("[" * 100_000, {}, "recursion"),
        ("[1]", {}, "holds no JSON object"),
        ('{"a": NaN}', {}, "holds NaN"),
        ("{}", {"a": int}, "has no 'a'"),
        ('{"a": true}', {"a": int}, "'a' is not an integer"),
        ('{"a": "1"}', {"a": (float, type(None))}, "'a' is not a number or null"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, fields: dict[str, Any], reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?i)x.json is damaged: .*{reason}.*; do it again\\.$"):
        read_json(path, fields=fields, hint="do it again")


def test_text_that_is_no_text_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="x.json is damaged"):
        read_json(tmp_path / "x.json", hint="again")
    with pytest.raises(FileNotFoundError, match=r"There is no .*y\.json; again\."):
        read_json(tmp_path / "y.json", hint="again")


def test_integers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": 1, "b": None, "c": 0.5}))
    read_json(path, fields={"a": float, "b": (str, type(None)), "c": float}, hint="again")


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_field_given_twice_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(ValueError, match=r"twice\.json is damaged: 'b' is there more than once; x"):
        read_json(path, hint="x")
