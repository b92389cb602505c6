"""A teacher's features of many pictures, computed once and kept: index, shards, checks.

An index is a Parquet file with a row for each scene, in an order shuffled once and for all: its
number in the source, its name, its label. Beside a copy of it lie the shards: each holds the
features of `shard_size` rows, as float16 in a safetensors file, written whole or not at all. So an
export that was interrupted, or is shared among machines, makes only the shards that are missing. A
picture that can not be read leaves NaN and is listed as failed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from canvit_gym.errors import missing_extra
from canvit_gym.files import require_writable, whole_file, write_bytes
from canvit_gym.scenes.stored import StoredScenes
from canvit_gym.training.teachers.base import Teacher, TeacherFeatures

SHARD_SIZE = 4096
"""Scenes of a shard, as published."""

_INDEX_FORMAT = "canvit-gym-feature-index-1"
_SHARD_FORMAT = "canvit-gym-features-1"
_INDEX_NAME = "index.parquet"
_SHARD_NAME = "shard-{:06d}.safetensors"
_AGREEING = (
    "index_sha256",
    "teacher",
    "picture_size_px",
    "shard_size",
    "precision",
    "dim",
    "num_patches",
)
"""What the shards of one export have in common."""


# -- the index -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureIndex:
    """Which scene each row is of.

    scenes: its number in the source, int64 [rows]. names: its `Scene.name`. labels: int64 [rows],
    -1 where there is none, or none is known yet. content: the file's bytes; their sha256 is in the
    shards.
    """

    scenes: np.ndarray
    names: Sequence[str]
    labels: np.ndarray
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def __len__(self) -> int:
        return len(self.scenes)

    def require_same(self, scenes: StoredScenes) -> None:
        """Raise ValueError unless the rows are of these scenes, name by name."""
        for row, (number, name) in enumerate(zip(self.scenes, self.names, strict=True)):
            found = scenes.name_of(int(number)) if number < len(scenes) else None
            if found != name:
                raise ValueError(
                    f"Row {row} of the index is scene {number}, {name!r}, but these scenes have "
                    f"{found or 'none'!r} there; give the pictures that the index was made of, or "
                    "make another index."
                )


def write_index(scenes: StoredScenes, path: Path, *, seed: int | None = None) -> FeatureIndex:
    """Index all scenes in a shuffled order; a seed of 63 bits is drawn where none is given.

    Raises FileExistsError where there is such a file: shards may depend on it.
    """
    pa, pq = _pyarrow()
    if path.exists():
        raise FileExistsError(
            f"{path} exists, and feature shards may depend on it; choose another name, or remove "
            "it and its shards."
        )
    seed = secrets.randbits(63) if seed is None else seed
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(scenes))
    known = getattr(scenes, "labels", None)  # some say it only with the picture
    labels = np.full(len(order), -1) if known is None else np.asarray(known, np.int64)[order]
    class_names = scenes.class_names
    columns = {
        "scene": pa.array(order, pa.int64()),
        "name": pa.array([scenes.name_of(int(i)) for i in order], pa.string()),
        "label": pa.array(labels, pa.int64()),
        "class_name": pa.array([class_names[i] if i >= 0 else None for i in labels], pa.string()),
    }
    record = {
        "format": _INDEX_FORMAT,
        "source": scenes.root.name,
        "seed": seed,
        "scenes": len(order),
        "classes": len(np.unique(labels[labels >= 0])),
    }
    table = pa.table(columns).replace_schema_metadata({"canvit_gym": json.dumps(record)})
    with whole_file(path) as partial:
        pq.write_table(table, partial)
    return read_index(path)


def read_index(path: Path) -> FeatureIndex:
    """The index in a file; raises FileNotFoundError, or ValueError where the file is no index."""
    _, pq = _pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; make it with `canvit-gym features index`.")
    try:
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[b"canvit_gym"])
        if record["format"] != _INDEX_FORMAT:
            raise ValueError(f"its format is {record['format']!r}")
        return FeatureIndex(
            scenes=table["scene"].to_numpy(),
            names=table["name"].to_pylist(),
            labels=table["label"].to_numpy(),
            content=path.read_bytes(),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's are ValueErrors
        raise ValueError(
            f"{path} is no index of scenes ({' '.join(str(error).split())[:200]}); make one with "
            "`canvit-gym features index`."
        ) from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_extra("An index of scenes", package="pyarrow", extra="agents") from error
    return pa, pq


# -- the export ------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """picture: uint8 [B, S, S, 3]; content: int64 [B], a hash of each; failed: bool [B]."""

    pictures: Tensor
    content: Tensor
    failed: Tensor


class _Rows(Dataset[_Row]):
    """Batches of rows of an index."""

    def __init__(
        self, scenes: StoredScenes, index: FeatureIndex, rows: range, batch_size: int
    ) -> None:
        self.scenes, self.index = scenes, index
        self.parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, part: int) -> _Row:
        pictures, content, failed = [], [], []
        for row in self.parts[part]:
            picture = self._picture(row)
            failed.append(picture is None)
            if picture is None:
                picture = np.zeros((self.scenes.size_px, self.scenes.size_px, 3), np.uint8)
            pictures.append(picture)
            content.append(content_hash(picture))
        return _Row(
            torch.from_numpy(np.stack(pictures)), torch.tensor(content), torch.tensor(failed)
        )

    def _picture(self, row: int) -> np.ndarray | None:
        """The picture of a row, None where it can not be decoded and another would stand in."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the shard says which failed
            scene = self.scenes[int(self.index.scenes[row])]
        return scene.picture if scene.name == self.index.names[row] else None


def content_hash(picture: np.ndarray) -> int:
    """A hash of 64 bits, signed, of a picture's pixels."""
    digest = hashlib.blake2b(picture.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def export(
    index: FeatureIndex,
    scenes: StoredScenes,
    teacher: Teacher,
    out: Path,
    *,
    shards: Iterable[int] | None = None,
    shard_size: int = SHARD_SIZE,
    batch_size: int = 32,
    workers: int = 0,
    bfloat16: bool = True,
    device: torch.device | str = "cpu",
    show: bool = True,
) -> list[Path]:
    """Write the shards that are missing in `out`, and the index; returns the paths of new shards.

    scenes: their size is that of the pictures that the teacher sees. shards: which ones; all by
    default. bfloat16: whether the teacher runs under autocast to it, as published.

    Raises ValueError where the scenes are not the index's, the teacher takes no such pictures, or
    `out` holds shards of another export; OSError where it can not be written to.
    """
    index.require_same(scenes)
    grid = teacher.patch_grid(scenes.size_px)
    require_writable(out)
    record = {
        "format": _SHARD_FORMAT,
        "index_sha256": index.sha256,
        "teacher": teacher.name,
        "picture_size_px": str(scenes.size_px),
        "shard_size": str(shard_size),
        "precision": "bfloat16" if bfloat16 else "float32",
        "dim": str(teacher.dim),
        "num_patches": str(grid**2),
    }
    there = _shard_paths(out)
    if there:
        _require_agreement(there[0], _metadata(there[0]), record)
    count = -(-len(index) // shard_size)
    wanted = list(range(count) if shards is None else shards)
    if outside := [number for number in wanted if not 0 <= number < count]:
        raise ValueError(
            f"There is no shard {outside[0]}: the {len(index)} scenes make shards 0 .. {count - 1}."
        )
    write_bytes(out / _INDEX_NAME, index.content)
    written = []
    missing = [number for number in wanted if not (out / _SHARD_NAME.format(number)).exists()]
    rows_of = {n: range(n * shard_size, min((n + 1) * shard_size, len(index))) for n in missing}
    bar = tqdm(total=sum(map(len, rows_of.values())), unit="picture", disable=not show)
    for number, rows in rows_of.items():
        loader = DataLoader(
            _Rows(scenes, index, rows, batch_size), batch_size=None, num_workers=workers
        )
        tensors = _features_of(loader, teacher, bfloat16=bfloat16, device=device, seen=bar.update)
        path = out / _SHARD_NAME.format(number)
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata={**record, "first_row": str(rows.start)})
        written.append(path)
    bar.close()
    return written


def _features_of(
    batches: Iterable[_Row],
    teacher: Teacher,
    *,
    bfloat16: bool,
    device: torch.device | str,
    seen: Callable[[int], Any],
) -> dict[str, Tensor]:
    """The tensors of a shard."""
    parts: dict[str, list[Tensor]] = {"patches": [], "cls": [], "content": [], "failed": []}
    for batch in batches:
        kind = torch.device(device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=bfloat16):
            features = teacher(batch.pictures.to(device, non_blocking=True))
        for name, values in features._asdict().items():
            half = values.half().cpu()
            if not bool(half[~batch.failed].isfinite().all()):
                raise ValueError(
                    f"The {name} of {teacher.name} have values that float16 can not hold, such as "
                    f"{float(values.abs().max()):.3g}; choose another teacher."
                )
            half[batch.failed] = torch.nan
            parts[name].append(half)
        parts["content"].append(batch.content)
        parts["failed"].append(batch.failed)
        seen(len(batch.failed))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


# -- reading ---------------------------------------------------------------------------------------


class FeatureShards:
    """The features of an export, row by row as its index has them.

    teacher: its name. picture_size_px: side of the pictures that it saw. dim, patch_grid: D and G.
    index: which scenes the rows are of. Raises FileNotFoundError or ValueError as `check` does,
    without reading features.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._paths = _shard_paths(self.directory)
        records = _agreeing_records(self.directory, self._paths)
        self.teacher: str = records[0]["teacher"]
        self.picture_size_px = int(records[0]["picture_size_px"])
        self.dim = int(records[0]["dim"])
        self.patch_grid = round(int(records[0]["num_patches"]) ** 0.5)
        self._shard_size = int(records[0]["shard_size"])
        self._files = [_open(path) for path in self._paths]
        self.failed = torch.cat([file.get_tensor("failed") for file in self._files])
        """Rows whose pictures could not be read, bool [rows]."""
        self.content = torch.cat([file.get_tensor("content") for file in self._files])
        """`content_hash` of each picture, int64 [rows]."""
        self.index = read_index(self.directory / _INDEX_NAME)
        if self.index.sha256 != records[0]["index_sha256"]:
            raise ValueError(
                f"{self.directory / _INDEX_NAME} is not the index that the shards beside it were "
                "exported with; put that one there."
            )
        if len(self) != len(self.index):
            raise ValueError(
                f"{self.directory} holds features of {len(self)} of the {len(self.index)} scenes; "
                "export the shards that are missing."
            )

    def __len__(self) -> int:
        return len(self.failed)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureShards, (self.directory,)

    def read(self, rows: Sequence[int]) -> TeacherFeatures:
        """Features of these rows, float16: patches [B, G^2, D] and cls [B, D]."""
        places = [divmod(int(row), self._shard_size) for row in rows]
        patches, cls = (
            torch.cat([self._files[n].get_slice(name)[i : i + 1] for n, i in places])
            for name in ("patches", "cls")
        )
        return TeacherFeatures(patches, cls)

    def require_same_pictures(self, scenes: StoredScenes, *, count: int = 16) -> None:
        """Raise ValueError unless the scenes are those of the index, by name, and some of their
        pictures those that the teacher saw."""
        self.index.require_same(scenes)
        for row in np.linspace(0, len(self) - 1, count, dtype=int):
            picture = scenes[int(self.index.scenes[row])].picture
            if not self.failed[row] and content_hash(picture) != int(self.content[row]):
                raise ValueError(
                    f"{self.index.names[row]} is another picture than the one that {self.teacher} "
                    f"saw for {self.directory}; give the same pictures, or export again."
                )


class Checked(NamedTuple):
    """What `check` found: shards, rows, and the rows whose pictures could not be read."""

    shards: int
    rows: int
    failed: list[int]


def check(directory: Path) -> Checked:
    """Read all shards, and raise ValueError unless they are whole, belong together, and cover the
    index, with NaN in the failed rows and in no others; FileNotFoundError where there are none."""
    features = FeatureShards(directory)
    for path, file in zip(features._paths, features._files, strict=True):
        failed = file.get_tensor("failed")
        for name in ("patches", "cls"):
            bad = ~file.get_tensor(name).flatten(1).isfinite().all(dim=1)
            if not torch.equal(bad, failed):
                raise ValueError(
                    f"{path}: {name} are not finite in {int(bad.sum())} rows, but "
                    f"{int(failed.sum())} pictures failed; export that shard again."
                )
    failed_rows: list[int] = features.failed.nonzero()[:, 0].tolist()
    return Checked(shards=len(features._paths), rows=len(features), failed=failed_rows)


def _shard_paths(directory: Path) -> list[Path]:
    return sorted(directory.glob(_SHARD_NAME.replace("{:06d}", "*")))


def _agreeing_records(directory: Path, paths: Sequence[Path]) -> list[dict[str, str]]:
    """What each shard says of itself; they are contiguous, full but for the last, and agree."""
    if not paths:
        raise FileNotFoundError(
            f"{directory} holds no feature shards; make them with `canvit-gym features export`."
        )
    records = [_metadata(path) for path in paths]
    for number, (path, record) in enumerate(zip(paths, records, strict=True)):
        if path.name != _SHARD_NAME.format(number):
            raise ValueError(
                f"{directory / _SHARD_NAME.format(number)} is missing; export it before its "
                "successors are used."
            )
        _require_agreement(path, record, records[0])
        rows, size = int(record["rows"]), int(record["shard_size"])
        if int(record["first_row"]) != number * size or (rows < size and number < len(paths) - 1):
            raise ValueError(
                f"{path} holds {rows} rows from {record['first_row']} on, but shards have {size}; "
                "export it again."
            )
    return records


def _require_agreement(path: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    for name in _AGREEING:
        if found[name] != wanted[name]:
            raise ValueError(
                f"{path} was exported with {name} {found[name]}, not {wanted[name]}; use another "
                "directory for each export."
            )


def _metadata(path: Path) -> dict[str, str]:
    """What a shard says of itself, and its number of "rows"."""
    file = _open(path)
    record: dict[str, str] = file.metadata() or {}
    names = {"patches", "cls", "content", "failed"}
    if record.get("format") != _SHARD_FORMAT or set(file.keys()) != names:
        raise ValueError(f"{path} is no shard of features; remove it, or export it again.")
    if missing := [name for name in (*_AGREEING, "first_row") if name not in record]:
        raise ValueError(f"{path} does not say its {', '.join(missing)}; export it again.")
    return {**record, "rows": str(file.get_slice("failed").get_shape()[0])}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); remove it and export it again."
        ) from error
