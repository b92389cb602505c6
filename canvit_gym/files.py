"""Files that are written whole or not at all, and read with errors that name them.

A file is written beside its place, under a name that ends in `.partial`, and then moved there, so
an interruption leaves the former file or none. Where writing fails, nothing partial stays behind.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PARTIAL = ".partial"

_MAX_JSON_BYTES = 256 * 2**20
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}

Kind = type | tuple[type, ...]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move what was written there to `path` once the body is done.

    The folder is made where it is missing. Raises OSError with one sentence that names `path`
    where the disk is full, the folder read-only, and the like.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:  # else a power cut could leave an empty file in its place
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write the file whole or not at all; raises OSError as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all, in UTF-8; raises OSError as `whole_file` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; raises ValueError for NaN and infinite numbers."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file; raises OSError as `whole_file` does."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def read_json(path: Path, *, fields: Mapping[str, Kind] | None = None, hint: str) -> dict[str, Any]:
    """The JSON object in a file, which has at least these fields of these types.

    fields: by name; a tuple of types means any of them, float takes integers too, and bool is no
    int. hint: what to do about a file that is no such thing, as the end of a sentence ("evaluate
    again with the same --out").

    Raises FileNotFoundError where there is no file, and ValueError with one sentence that names
    the file where it is no JSON object, or lacks a field, or has one of another type.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {_MAX_JSON_BYTES} bytes")
        values = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_repeats,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no {path}; {hint}.") from error
    except OSError as error:
        raise _unreadable(path, error, hint) from error
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{path} is damaged: {_one_line(error)}; {hint}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; {hint}.")
    for name, kind in (fields or {}).items():
        if name not in values:
            raise ValueError(f"{path} is damaged: it has no {name!r}; {hint}.")
        if not _is(values[name], kind):
            raise ValueError(f"{path} is damaged: {name!r} is not {_in_words(kind)}; {hint}.")
    return values


def plain_json(value: Any, *, name: str) -> Any:
    """The value as it comes back from a JSON file: tuples are lists, paths texts, and numpy's
    numbers Python's. Raises ValueError, with `name`, for what JSON has no form for."""

    def plain(part: Any) -> Any:
        if isinstance(part, Path):
            return str(part)
        if hasattr(part, "tolist"):  # numpy's scalars and arrays
            return part.tolist()
        raise ValueError(
            f"{name} holds {part!r}, which can not be written to a file; give numbers, texts, "
            "lists, or a path."
        )

    return json.loads(json.dumps(value, default=plain, allow_nan=False))


def require_writable(directory: Path) -> None:
    """Make the directory where it is missing, and try to write there, before long work begins.

    Raises OSError with one sentence that names the directory where it is a file, is read-only, or
    the disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise _unwritable(directory, error) from error


def cache_directory() -> Path | None:
    """The user's folder for what can be made or downloaded again; None where there is no home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home directory is known
        return None
    return home.expanduser() / "canvit-gym"


def _unwritable(path: Path, error: OSError) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space and run the same command again, or choose another place"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        advice = "part of that path is a file, so choose another place"
    else:
        advice = "choose a place that can be written to"
    reason = error.strerror or _one_line(error)
    return _like(error, f"{path} can not be written: {reason}; {advice}.")


def _unreadable(path: Path, error: OSError, hint: str) -> OSError:
    return _like(error, f"{path} can not be read: {error.strerror or _one_line(error)}; {hint}.")


def _like(error: OSError, sentence: str) -> OSError:
    """An error of the same type and number whose text is the sentence alone."""
    same = type(error)(sentence)
    same.errno = error.errno
    return same


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _remove(path: Path) -> None:
    with suppress(OSError):  # the first error is the one to report
        path.unlink(missing_ok=True)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} is there more than once")
    return values


def _is(value: Any, kind: Kind) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, kinds)


def _in_words(kind: Kind) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if k is type(None) else _KINDS[k] for k in kinds)
