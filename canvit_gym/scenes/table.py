"""Scenes from the tables in which Hugging Face `datasets` keeps pictures: Parquet and Arrow files.

Read through pyarrow alone. A table has a column of pictures, as bytes or as {bytes, path}, and
perhaps one of class ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from PIL import Image

from canvit_gym.errors import require_choice, require_int, with_hint
from canvit_gym.preprocess import (
    PictureStorageError,
    open_picture,
    open_stored_picture,
    preprocess_picture,
    printable,
    storage_error,
)
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import MAX_ID, files_in
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID
from canvit_gym.scenes.stored import (
    Classes,
    Labels,
    Split,
    StoredScenes,
    chosen_rows,
    shuffled,
    some,
)

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow")

LAYOUT = (
    "accepted is a folder of .parquet or .arrow files with a column of pictures (bytes, or a struct"
    " with bytes and path) and perhaps one of integer labels, as Hugging Face datasets saves them"
)

_PICTURE_NAMES = ("image", "img", "picture", "jpg", "png")
_LABEL_NAMES = ("label", "labels", "cls", "fine_label")
_KEPT_GROUPS = 2  # of Parquet rows, in memory and per process: a group is often 10 MB


class TableScenes(StoredScenes):
    """The pictures of Parquet or Arrow files, in the order of their rows.

    **Layout.** Files that `datasets` saved (`save_to_disk`, `to_parquet`), one or many, all of the
    same columns. The columns are those that the data set's own description calls an image and a
    class label; without one, those named "image" and "label", or the only ones of a fitting type.

    **Labels.** Class names come from the description; numbers are named by themselves. A missing
    label, or -1, is none: `labels="required"` leaves such pictures out. With `classes="imagenet"`
    labels become ImageNet-1k ids: they are so already where the description has 1,000 classes or
    none; otherwise its names must be wnids, or ImageNet's names.

    **Speed.** Any row of an Arrow file costs the same; of Parquet a whole group of rows is read,
    and the last two are kept, so that orders that stay within groups (`order`) are faster.

    **Splits** "train" and "test" part the pictures four to one by a hash of their names. Pictures
    that can not be decoded are replaced, as `StoredScenes` says.

    Raises ModuleNotFoundError where pyarrow is not installed.
    """

    has_whole_pictures = True

    def __init__(
        self,
        root: str | Path,
        *,
        files: Sequence[str] | None = None,
        size_px: int = 512,
        split: Split = "all",
        classes: Classes = "any",
        labels: Labels = "any",
        upright: bool = False,
    ) -> None:
        """files: names below `root` of the tables to read; None for all that lie in it."""
        require_choice("split", split, get_args(Split))
        require_choice("classes", classes, get_args(Classes))
        require_choice("labels", labels, get_args(Labels))
        root = Path(root).expanduser().absolute()
        self._again = partial(
            TableScenes, root, files=files, size_px=size_px, split=split, classes=classes,
            labels=labels, upright=upright,
        )  # fmt: skip
        super().__init__(root=root, size_px=size_px)
        self.split, self.upright = split, bool(upright)
        self.files = tuple(files_in(root, SUFFIXES) if files is None else files)
        if not self.files:
            raise ValueError(f"{printable(root)} holds no tables; {LAYOUT}.")
        try:
            self._tables: list[_Table] = [_open(root / name) for name in self.files]
        except ModuleNotFoundError as error:
            raise with_hint(error, what="Reading Parquet and Arrow files") from error

        first = self._tables[0]
        features = _features(first.schema, root)
        self._picture = _column(first, "picture", features, wanted="Image")
        label = _column(first, "label", features, wanted="ClassLabel")
        for table in self._tables:
            if missing := {self._picture, label} - {None, *table.schema.names}:
                raise ValueError(
                    f"{printable(table.path)} has no column {missing.pop()!r}, which"
                    f" {printable(first.path.name)} has; give files of one data set."
                )
        self._starts = np.cumsum([0, *(table.rows for table in self._tables)])
        self._labels = _labels(self._tables, label)
        if not len(self._labels):
            raise ValueError(f"The tables in {printable(root)} hold no pictures; {LAYOUT}.")
        self.class_names = self._name_classes(features.get(label or "", {}), classes)
        self._rows = chosen_rows(
            self._labels, split=split, labels=labels, name_of=self._row_name, root=root,
            layout=LAYOUT,
        )  # fmt: skip

    def _name_classes(self, feature: Mapping[str, Any], classes: Classes) -> tuple[str, ...]:
        """The names of the classes; for ImageNet, labels become its ids."""
        names = feature.get("names")
        highest = int(self._labels.max())
        if names is not None and highest >= len(names):
            raise ValueError(
                f"{printable(self.root)} has the label {highest}, but only {len(names)} class"
                " names; save the data set again."
            )
        if classes == "any":
            return tuple(names if names is not None else map(str, range(highest + 1)))
        if names is None or len(names) == len(CLASS_NAMES):
            if highest >= len(CLASS_NAMES):
                raise ValueError(
                    f"{printable(self.root)} has the label {highest}, which is no id of ImageNet-1k"
                    " (0 to 999), so a classifier of ImageNet can not be scored on it; give tables"
                    " with such labels."
                )
            return CLASS_NAMES
        ids = [LABEL_OF_WNID.get(name, _LABEL_OF_NAME.get(name.lower(), -1)) for name in names]
        if unknown := [name for name, label in zip(names, ids, strict=True) if label < 0]:
            raise ValueError(
                f"{printable(self.root)} has classes ({some(unknown)}) that are neither wnids nor"
                " names of ImageNet-1k's classes, so a classifier of ImageNet can not be scored on"
                " it; give a data set of such classes."
            )
        # The last entry answers for the label -1.
        self._labels = np.array([*ids, -1], dtype=np.int32)[self._labels]
        return CLASS_NAMES

    @property
    def labels(self) -> np.ndarray:
        """The label of each scene, int32 [scenes], -1 where there is none."""
        return self._labels[self._rows]

    def order(self, *, seed: int, epoch: int = 0, groups_at_once: int | None = None) -> np.ndarray:
        """An order of all scenes, int64 [scenes], for a pass over them: the same on every machine.

        With `groups_at_once`, the groups of rows are shuffled, and then the pictures within so many
        of them at a time, so that a group of a Parquet file is read about once.
        """
        if groups_at_once is not None:
            require_int("groups_at_once", groups_at_once, at_least=1)
        sizes = [size for table in self._tables for size in table.group_sizes]
        group_of = np.repeat(np.arange(len(sizes)), sizes)[self._rows]
        return shuffled(
            len(self), group_of=group_of, groups_at_once=groups_at_once, seed=seed, epoch=epoch
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy opens the tables anew."""
        return self._again, ()

    def _place(self, row: int) -> tuple[int, int]:
        """Which table a row lies in, and where."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, row - int(self._starts[number])

    def _row_name(self, row: int) -> str:
        number, place = self._place(row)
        return f"{Path(self.files[number]).with_suffix('').as_posix()}/{place}"

    def name_of(self, index: int) -> str:
        return self._row_name(int(self._rows[index]))

    def _whole(self, index: int) -> AbstractContextManager[Image.Image]:
        row = int(self._rows[index])
        number, place = self._place(row)
        where = f"{printable(self._tables[number].path)}: row {place}"
        try:
            stored = self._tables[number].value(self._picture, place)
        except (OSError, MemoryError, ValueError) as error:  # pyarrow's own are among these
            raise storage_error(where, error) from error
        data, path = (stored, None) if isinstance(stored, bytes) else _parts(stored)
        if data is not None:
            return open_stored_picture(data, name=where)
        if path:  # `datasets` may keep where a picture lies in place of its bytes
            return open_picture(self.root / path)
        raise PictureStorageError(f"{where} holds no picture; save the data set again.")

    def _label(self, index: int) -> int:
        return int(self._labels[self._rows[index]])

    def _read(self, index: int) -> Scene:
        with self._whole(index) as image:
            picture = preprocess_picture(image, self.size_px, upright=self.upright)
        return Scene(
            name=self.name_of(index),
            picture=picture,
            label=self._label(index),
            mask=None,
            target=None,
        )


def _parts(stored: Any) -> tuple[bytes | None, str | None]:
    values = stored if isinstance(stored, dict) else {}
    return values.get("bytes"), values.get("path")


_LABEL_OF_NAME = {
    name.lower(): label
    for label, name in enumerate(CLASS_NAMES)
    if sum(other.lower() == name.lower() for other in CLASS_NAMES) == 1
}


# -- files -----------------------------------------------------------------------------------------


class _Table:
    """A file of rows. group_sizes: of the runs of rows that are read together."""

    path: Path
    schema: pa.Schema
    group_sizes: list[int]

    @property
    def rows(self) -> int:
        return sum(self.group_sizes)

    def column(self, name: str) -> Any:
        """A whole column, a pyarrow ChunkedArray."""
        raise NotImplementedError

    def value(self, name: str, row: int) -> Any:
        """A cell as Python has it."""
        raise NotImplementedError


class _Parquet(_Table):
    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        self._file = parquet.ParquetFile(path)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.group_sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = np.cumsum(self.group_sizes)
        self._group = lru_cache(_KEPT_GROUPS)(self._read_group)

    def _read_group(self, name: str, group: int) -> Any:
        from pyarrow import parquet

        # A reader of its own, because one can not be shared by threads and forked processes.
        with parquet.ParquetFile(self.path) as file:
            return file.read_row_group(group, columns=[name]).column(name)

    def column(self, name: str) -> Any:
        return self._file.read(columns=[name]).column(name)

    def value(self, name: str, row: int) -> Any:
        group = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[group]) - self.group_sizes[group]
        return self._group(name, group)[row - start].as_py()


class _Arrow(_Table):
    """Mapped into memory: nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        source = pa.memory_map(str(path))
        try:
            self._table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:  # `datasets` writes streams, others files
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.schema = self._table.schema
        self.group_sizes = [batch.num_rows for batch in self._table.to_batches()]
        self._ends = np.cumsum(self.group_sizes)

    def column(self, name: str) -> Any:
        return self._table.column(name)

    def value(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()


def _open(path: Path) -> _Table:
    import pyarrow as pa

    try:
        return _Parquet(path) if path.suffix.lower() == ".parquet" else _Arrow(path)
    except FileNotFoundError as error:
        raise storage_error(path, error) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{printable(path)} is no whole Parquet or Arrow file ({reason}); copy or save it again"
        ) from error


def _features(schema: Any, root: Path) -> dict[str, Any]:
    """What `datasets` says of each column; {} where it says nothing."""
    text = (schema.metadata or {}).get(b"huggingface")
    sources: list[tuple[bytes, tuple[str, ...]]] = (
        [] if text is None else [(text, ("info", "features"))]
    )
    if (path := root / "dataset_info.json").is_file():
        sources.append((path.read_bytes(), ("features",)))
    for data, keys in sources:
        try:
            found = json.loads(data)
            for key in keys:
                found = found[key]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(found, dict):
            return {k: v for k, v in found.items() if isinstance(v, dict)}
    return {}


def _column(table: _Table, kind: str, features: Mapping[str, Any], *, wanted: str) -> Any:
    """The name of the column of pictures, or of labels; None where there are no labels."""
    described = [name for name, feature in features.items() if feature.get("_type") == wanted]
    fitting = [field.name for field in table.schema if _fits(field.type, kind)]
    usual = _PICTURE_NAMES if kind == "picture" else _LABEL_NAMES
    for names in (described, [name for name in usual if name in fitting], fitting):
        candidates = [name for name in names if name in table.schema.names]
        if names is not fitting and candidates:
            return next((name for name in usual if name in candidates), candidates[0])
        if len(candidates) == 1 and kind == "picture":
            return candidates[0]
    if kind == "label":
        return None
    raise ValueError(
        f"{printable(table.path)} has the columns {some(table.schema.names)}, none of which is"
        f" plainly that of the pictures; {LAYOUT}, so name it image."
    )


def _fits(kind: Any, wanted: str) -> bool:
    import pyarrow as pa

    if wanted == "label":
        return bool(pa.types.is_integer(kind))
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(tables: Sequence[_Table], name: str | None) -> np.ndarray:
    """int32 [rows], -1 for none."""
    if name is None:
        return np.full(sum(table.rows for table in tables), -1, dtype=np.int32)
    parts = []
    for table in tables:
        column = table.column(name)
        if not _fits(column.type, "label"):
            raise ValueError(
                f"{printable(table.path)} has labels of type {column.type}; give integers."
            )
        values = column.fill_null(-1).to_numpy()
        bad = (values < -1) | (values > MAX_ID)
        if bad.any():
            raise ValueError(
                f"{printable(table.path)} has the label {values[bad][0]}; give class ids from 0 to"
                f" {MAX_ID}, or -1 for none."
            )
        parts.append(values.astype(np.int32))
    return np.concatenate(parts)
