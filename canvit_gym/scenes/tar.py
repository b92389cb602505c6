"""Scenes from tar shards in the layout of WebDataset: millions of pictures in a few thousand files.

`python -m canvit_gym.scenes.tar FOLDER` writes the index beside the shards, for all who read them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from canvit_gym.errors import require_choice, require_int
from canvit_gym.files import cache_directory, read_json, whole_file
from canvit_gym.preprocess import (
    PictureStorageError,
    UnreadablePictureError,
    open_stored_picture,
    preprocess_picture,
    printable,
    storage_error,
)
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import MAX_ID, PICTURE_SUFFIXES, files_in
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID, picture_name
from canvit_gym.scenes.stored import (
    Classes,
    Labels,
    Split,
    StoredScenes,
    chosen_rows,
    shuffled,
    some,
)

Member = Literal["picture", "json", "cls.npy", "ptch.npy"]
"""Members of a sample: the picture, its record, and a teacher's features of it, all of one key."""

MEMBERS: tuple[Member, ...] = get_args(Member)

LAYOUT = (
    "accepted is a folder of .tar files (not compressed) whose members are KEY.jpg, and perhaps"
    ' KEY.json with {"label": id} or KEY.cls with the id, KEY.cls.npy and KEY.ptch.npy'
)

_SAMPLE = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<kind>[^/]*)")
_OPEN_SHARDS = 64  # at a time and process
_END = bytes(1024)  # a tar file ends with two empty blocks
_VERSION = 2  # of the index


class TarScenes(StoredScenes):
    """The pictures of a folder of tar shards, or of one tar file, shard by shard in sorted order.

    **Layout.** Members that share a key belong together: `KEY.jpg` (or another picture), perhaps
    `KEY.json` {"label": class id, anything else} or `KEY.cls` (the id alone), and perhaps a
    teacher's features `KEY.cls.npy` and `KEY.ptch.npy`. A key within a folder named by wnid has its
    label from there. An `info.json` beside the shards may say {"images_per_shard"}: then a shard of
    another length, but the last, is refused. Pictures without a label have the label -1;
    `labels="required"` leaves them out.

    **Index.** Where each member lies is written down when the shards are first opened (seconds for
    100,000 pictures), in the user's cache folder or, by `python -m canvit_gym.scenes.tar`, beside
    the shards. It is of these very files (names, sizes, times), and mapped into memory: opening
    them again reads nothing of any picture, and worker processes share it.

    **Labels.** With `classes="imagenet"` they are ImageNet-1k ids, 0 to 999. labels_of: the label
    of each file name without its suffix, for shards that have none of their own, such as the
    official tar of ImageNet's validation pictures.

    **Splits** "train" and "test" part the pictures four to one by a hash of their names, as those
    of `FolderScenes`. Pictures that can not be decoded are replaced, as `StoredScenes` says.
    """

    has_whole_pictures = True

    def __init__(
        self,
        root: str | Path,
        *,
        size_px: int = 512,
        split: Split = "all",
        classes: Classes = "any",
        labels: Labels = "any",
        upright: bool = False,
        labels_of: Mapping[str, int] | None = None,
    ) -> None:
        require_choice("split", split, get_args(Split))
        require_choice("classes", classes, get_args(Classes))
        require_choice("labels", labels, get_args(Labels))
        root = Path(root).expanduser().absolute()
        self._again = partial(
            TarScenes, root, size_px=size_px, split=split, classes=classes, labels=labels,
            upright=upright, labels_of=labels_of,
        )  # fmt: skip
        super().__init__(root=root, size_px=size_px)
        self.split, self.upright = split, bool(upright)
        self.shards = shards_in(self.root)
        self._files = _OpenFiles(self.shards)
        self._index = open_index(self.root, self.shards)

        found = np.array(self._index.label)  # all that is read of the index: 4 bytes a picture
        if labels_of is not None:
            stems = (key.decode().rpartition("/")[2] for key in self._index.key)
            found = np.array([labels_of.get(stem, -1) for stem in stems], dtype=np.int32)
        self._labels = found
        self._rows = self._choose(split, labels)
        self.class_names = _class_names(self.root, self.labels, classes=classes)

    def _choose(self, split: Split, labels: Labels) -> np.ndarray | None:
        """The rows of the table that are scenes; None for all of them."""
        if split == "all" and (labels == "any" or not (self._labels < 0).any()):
            return None
        return chosen_rows(
            self._labels, split=split, labels=labels, name_of=self._row_name, root=self.root,
            layout=LAYOUT,
        )  # fmt: skip

    @property
    def labels(self) -> np.ndarray:
        """The label of each scene, int32 [scenes], -1 where there is none."""
        return self._labels if self._rows is None else self._labels[self._rows]

    @property
    def shard_of(self) -> np.ndarray:
        """Which of `shards` each scene lies in, int32 [scenes]."""
        return self._index.shard if self._rows is None else self._index.shard[self._rows]

    def has(self, member: Member) -> bool:
        """Whether every scene has this member."""
        offsets = self._index.place[:, MEMBERS.index(member), 0]
        return bool((offsets if self._rows is None else offsets[self._rows]).min() >= 0)

    def read(self, index: int, member: Member = "picture") -> bytes:
        """A member of a scene as it is stored.

        Raises KeyError where the scene has no such member, and PictureStorageError where the shard
        can not be read.
        """
        row = self._row(index)
        offset, size = self._index.place[row, MEMBERS.index(member)].tolist()
        if offset < 0:
            raise KeyError(f"{self._where(row)} has no {member}; {LAYOUT}.")
        return self._files.read(int(self._index.shard[row]), offset=offset, size=size)

    def record(self, index: int) -> dict[str, Any]:
        """Returns what the JSON member of a scene says; {} where it has none."""
        row = self._row(index)
        if self._index.place[row, MEMBERS.index("json"), 0] < 0:
            return {}
        return _parse_record(self.read(index, "json"), self._where(row))

    def array(self, index: int, member: Literal["cls.npy", "ptch.npy"]) -> np.ndarray:
        """A teacher's features of a scene, of the shape and type that they were saved with."""
        data = self.read(index, member)
        try:
            values: np.ndarray = np.load(BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            where = self._where(self._row(index))
            raise ValueError(
                f"{where} holds no array in its {member} ({error}); write the shard again."
            ) from error
        return values

    def order(self, *, seed: int, epoch: int = 0, shards_at_once: int | None = None) -> np.ndarray:
        """An order of all scenes, int64 [scenes], for a pass over them: the same on every machine.

        With `shards_at_once`, the shards are shuffled, and then the pictures within so many of them
        at a time, so that what is read lies near by, as slow storage wants it.
        """
        if shards_at_once is not None:
            require_int("shards_at_once", shards_at_once, at_least=1)
        return shuffled(
            len(self), group_of=self.shard_of, groups_at_once=shards_at_once, seed=seed, epoch=epoch
        )

    def __len__(self) -> int:
        return len(self._labels if self._rows is None else self._rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy opens the shards and their index anew."""
        return self._again, ()

    def _row(self, index: int) -> int:
        return int(index if self._rows is None else self._rows[index])

    def name_of(self, index: int) -> str:
        return self._row_name(self._row(index))

    def _row_name(self, row: int) -> str:
        key = self._index.key[row].decode()
        name = picture_name(key.rpartition("/")[2], label=int(self._labels[row]))
        return name or f"{self.shards[self._index.shard[row]].stem}/{key}"

    def _where(self, row: int) -> str:
        shard = self.shards[self._index.shard[row]]
        return f"{printable(shard)}: {printable(self._index.key[row].decode())}"

    def _whole(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_stored_picture(self.read(index), name=self._where(self._row(index)))

    def _label(self, index: int) -> int:
        return int(self._labels[self._row(index)])

    def _read(self, index: int) -> Scene:
        row = self._row(index)
        with self._whole(index) as image:
            picture = preprocess_picture(image, self.size_px, upright=self.upright)
        return Scene(
            name=self._row_name(row),
            picture=picture,
            label=int(self._labels[row]),
            mask=None,
            target=None,
        )


def without_labels(scenes: TarScenes) -> bool:
    """Whether these are ImageNet's official validation pictures and none has a label."""
    first = scenes._index.key[0].decode().rpartition("/")[2]
    return bool((scenes.labels < 0).all()) and picture_name(first, label=0) is not None


class _OpenFiles:
    """Reads anywhere in many files, of which those read last stay open; threads and forked
    processes may read at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        # A file is closed once it is forgotten here and no thread reads it any more.
        self._file = lru_cache(_OPEN_SHARDS)(lambda number: FileIO(paths[number]))

    def read(self, number: int, *, offset: int, size: int) -> bytes:
        try:
            file = self._file(number)
            data = os.pread(file.fileno(), size, offset)
        except (OSError, MemoryError) as error:
            raise storage_error(self.paths[number], error) from error
        if len(data) != size:
            raise PictureStorageError(
                f"{printable(self.paths[number])} has become shorter since it was opened; open the"
                " shards again once it is whole."
            )
        return data


# -- shards and their index ------------------------------------------------------------------------


def shards_in(root: Path) -> tuple[Path, ...]:
    """The tar files of a folder, sorted, or the tar file itself."""
    if not root.exists():
        raise FileNotFoundError(f"There is no {root}; {LAYOUT}.")
    if root.is_file():
        return (root,)
    if names := files_in(root, {".tar"}):
        return tuple(root / name for name in names)
    packed = files_in(root, {".gz", ".tgz", ".bz2", ".xz", ".zst"})
    hint = f", so unpack {some(packed)} with gunzip or the like" if packed else ""
    raise ValueError(f"{printable(root)} holds no .tar files; {LAYOUT}{hint}.")


class Index(NamedTuple):
    """Where the members of each sample lie, a row a sample.

    label: int32 [rows], -1 for none. shard: int32 [rows], which of the shards. key: bytes [rows].
    place: int64 [rows, MEMBERS, 2], offset in the shard and size, -1 where there is no such member.
    """

    label: np.ndarray
    shard: np.ndarray
    key: np.ndarray
    place: np.ndarray


def open_index(root: Path, shards: Sequence[Path]) -> Index:
    """The index of shards, mapped into memory where it is saved; otherwise it is made, and saved in
    the user's cache folder."""
    name = _index_name(shards)
    cache = cache_directory()
    beside = (root if root.is_dir() else root.parent) / name
    places = [beside] if cache is None else [beside, cache / "tars" / name]
    for path in places:
        if (index := _load(path)) is not None:
            return index
    index = build_index(root, shards)
    if cache is not None:
        try:
            _save(index, places[-1])
        except OSError:  # the next one to open these shards reads them once more
            return index
        return _load(places[-1]) or index
    return index


def build_index(root: Path, shards: Sequence[Path]) -> Index:
    """The index of shards, read from their headers and records; raises ValueError or
    PictureStorageError where a shard is no whole tar file."""
    each = _images_per_shard(root)
    parts: list[Index] = []
    for number, shard in enumerate(tqdm(shards, "index of shards", disable=len(shards) < 50)):
        rows = list(_samples(shard))
        is_last = number == len(shards) - 1
        if each is not None and (len(rows) > each or (len(rows) < each and not is_last)):
            raise ValueError(
                f"{printable(shard)} holds {len(rows)} pictures, but info.json says"
                f" images_per_shard {each}; copy that shard again, or mend info.json."
            )
        if rows:
            labels, keys, places = zip(*rows, strict=True)
            parts.append(
                Index(
                    label=np.array(labels, dtype="<i4"),
                    shard=np.full(len(rows), number, dtype="<i4"),
                    key=np.array(keys),
                    place=np.array(places, dtype="<i8"),
                )
            )
    if not parts:
        raise ValueError(f"The shards in {printable(root)} hold no pictures; {LAYOUT}.")
    return Index(*map(np.concatenate, zip(*parts, strict=True)))


def _samples(shard: Path) -> Iterator[tuple[int, bytes, list[tuple[int, int]]]]:
    """Label, key and places of each picture of a shard, in the order of the pictures."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with shard.open("rb") as file:
        for name, offset, size in _members(shard):
            if (match := _SAMPLE.fullmatch(name)) is None:
                continue
            kind = match["kind"].lower()
            kind = "picture" if f".{kind}" in PICTURE_SUFFIXES else kind
            sample = samples.setdefault(match["key"], {})
            if kind in sample:
                raise ValueError(
                    f"{printable(shard)} has two members {printable(match['key'])} that are the"
                    f" {kind} of a sample; {LAYOUT}, so give each picture a key of its own."
                )
            sample[kind] = (offset, size)

        def content(place: tuple[int, int]) -> bytes:
            return os.pread(file.fileno(), place[1], place[0])

        for key, sample in samples.items():
            if "picture" not in sample:
                continue
            where = f"{printable(shard)}: {printable(key)}"
            label: Any = LABEL_OF_WNID.get(key.rpartition("/")[0].rpartition("/")[2], -1)
            if "json" in sample:
                label = _parse_record(content(sample["json"]), where).get("label", label)
            elif "cls" in sample:
                text = content(sample["cls"]).strip()
                label = int(text) if re.fullmatch(rb"-?[0-9]{1,9}", text) else text.decode("latin1")
            label = -1 if label is None else label
            if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label <= MAX_ID:
                raise ValueError(
                    f"{where} has the label {label!r}; give a class id from 0 to {MAX_ID}, or -1"
                    " for none."
                )
            yield label, key.encode(), [sample.get(member, (-1, -1)) for member in MEMBERS]


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in a tar file that is whole."""
    again = "copy or make that shard again"
    try:
        with shard.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_END)))
            if file.read() != _END:
                raise ValueError(
                    f"{printable(shard)} does not end as a tar file does: it was cut short, or is"
                    f" compressed; {again}, without compression."
                )
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
    except tarfile.TarError as error:
        raise ValueError(f"{printable(shard)} is no whole tar file ({error}); {again}.") from error
    except OSError as error:
        raise storage_error(shard, error) from error


def _parse_record(data: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} has a damaged .json ({error}); write it again.") from error
    if not isinstance(record, dict):
        raise ValueError(f'{where} has a .json without a JSON object; give {{"label": id}}.')
    return record


def _images_per_shard(root: Path) -> int | None:
    path = root / "info.json"
    if not path.is_file():
        return None
    info = read_json(path, hint='give {"images_per_shard": ...}, or remove it')
    each = info.get("images_per_shard")
    if each is not None and (isinstance(each, bool) or not isinstance(each, int) or each < 1):
        raise ValueError(f"{path} says images_per_shard {each!r}; give a whole number, or none.")
    return each


def _class_names(root: Path, labels: np.ndarray, *, classes: Classes) -> tuple[str, ...]:
    highest = int(labels.max())
    if classes == "any":
        return tuple(map(str, range(highest + 1)))
    if highest >= len(CLASS_NAMES):
        raise ValueError(
            f"{printable(root)} has the label {highest}, which is no id of ImageNet-1k (0 to 999),"
            " so a classifier of ImageNet can not be scored on it; give shards with such labels."
        )
    return CLASS_NAMES


def _index_name(shards: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for shard in shards:
        try:
            status = shard.stat()
        except OSError as error:
            raise storage_error(shard, error) from error
        digest.update(f"{shard.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return f"canvit-index-{digest.hexdigest()[:24]}.bin"


def _load(path: Path) -> Index | None:
    """A saved index, mapped into memory; None where there is none, or a damaged one."""
    columns = []
    try:
        with path.open("rb") as file:
            for _ in Index._fields:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                start = file.tell()
                columns.append(np.memmap(path, dtype, "r", offset=start, shape=shape))
                file.seek(start + columns[-1].nbytes)
    except (OSError, ValueError, EOFError):
        return None
    index = Index(*columns)
    whole = index.place.shape == (len(index.label), len(MEMBERS), 2)
    return index if whole and index.key.dtype.kind == "S" else None


def _save(index: Index, path: Path) -> None:
    own = path.with_name(f"{os.getpid()}-{path.name}")  # several processes may save it at once
    with whole_file(own) as partial_path, partial_path.open("wb") as file:
        for column in index:
            np.save(file, column, allow_pickle=False)
    own.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.scenes.tar", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("root", type=Path, help="folder of tar shards")
    root = parser.parse_args(arguments).root
    try:
        shards = shards_in(root)
        index = build_index(root, shards)
        path = (root if root.is_dir() else root.parent) / _index_name(shards)
        _save(index, path)
    except (OSError, ValueError, UnreadablePictureError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{len(index.label)} pictures in {len(shards)} shards: {path}")


if __name__ == "__main__":
    main()
