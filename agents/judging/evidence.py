"""Evidence of what was seen: one Parquet file for each policy, from which every number of a summary
follows.

A row is a glimpse of a scene, t0 to tT of the first scene, then of the second, and so on:

scene, scene_name, scene_digest: index in the scenes, `Scene.name`, and a digest of its content.
t, row, col, scale: which glimpse, and where. Once the policy has stopped, there is no glimpse, so
    where is null, and all else stays as it was.
potential_<name>: each potential of the task after the glimpse.
The task's outcome after the glimpse: numbers, or lists of them. Where scenes are named: label,
prediction and correct, with many classes in_top5; where places are labelled: intersection and
union, in pixels, with an entry for each class.
best_candidate, rank: only with `--regret`; see `Trajectories.peeks`.

The file's metadata holds the settings that decide the content, the versions that made it, and a
SHA-256 of both and of all columns, as JSON under the key "canvit_gym". Pages have checksums. So a
file in which a bit flipped is refused wherever it is loaded.

Names may hold bytes that are no UTF-8, as file names may (Python has surrogates for them); in the
file a surrogate is written as a backslash, `u` and four digits, and so is the backslash itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from canvit_gym import Scene
from canvit_gym.errors import missing_extra
from canvit_gym.files import write_bytes

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise missing_extra("Saving what policies see", package="pyarrow", extra="agents") from error

_KEY = b"canvit_gym"
_POTENTIAL = "potential_"
_SCENE = ("scene", "scene_name", "scene_digest")
_VIEWPOINT = ("row", "col", "scale")
PEEKS = ("best_candidate", "rank")

_MAX_STEM = 100  # file systems allow 255 bytes, and a digest and an ending come after it

# What pyarrow and the code below raise for files that are something else or damaged. MemoryError
# and OverflowError: of sizes that a damaged page states.
_NO_EVIDENCE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    RecursionError, ZeroDivisionError, pa.ArrowException,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Records of what one policy did on N scenes, t0 to tT.

    scenes: int64 [N], indices. names, digests: of each of them.
    viewpoints: float32 [N, T + 1, 3], (row, col, scale), zeros after the last glimpse taken.
    potentials: float32 [N, T + 1] by name.
    outcome: the task's, by name; bool, int32 or float32 [N, T + 1, ...].
    peeks: by name in PEEKS, float32 [N, T + 1], NaN where no glimpse was chosen; empty where nobody
    peeked. best_candidate: the highest potential that one of some candidate viewpoints would
    have led to. rank: 1 + how many of them would have led higher than the chosen viewpoint did.
    """

    scenes: np.ndarray
    names: tuple[str, ...]
    digests: tuple[str, ...]
    viewpoints: np.ndarray
    potentials: dict[str, np.ndarray]
    outcome: dict[str, np.ndarray]
    peeks: dict[str, np.ndarray]

    @property
    def num_scenes(self) -> int:
        return len(self.scenes)

    @property
    def num_glimpses(self) -> int:
        """T + 1: how many may be taken."""
        return self.viewpoints.shape[1]

    @property
    def taken(self) -> np.ndarray:
        """Which glimpses were: bool [N, T + 1]."""
        return self.viewpoints[..., 2] > 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Records of what one policy did, the settings that decided it, and the versions that played
    it."""

    settings: dict[str, Any]
    versions: dict[str, str]
    seen: Trajectories


def concatenate(parts: list[Trajectories]) -> Trajectories:
    """One after the other; all of the same task and number of glimpses."""

    def joined(field: str) -> dict[str, np.ndarray]:
        first: dict[str, np.ndarray] = getattr(parts[0], field)
        return {name: np.concatenate([getattr(p, field)[name] for p in parts]) for name in first}

    return Trajectories(
        scenes=np.concatenate([part.scenes for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        digests=tuple(digest for part in parts for digest in part.digests),
        viewpoints=np.concatenate([part.viewpoints for part in parts]),
        potentials=joined("potentials"),
        outcome=joined("outcome"),
        peeks=joined("peeks"),
    )


def scene_digest(scene: Scene) -> str:
    """Sixteen hexadecimal digits that tell its picture and the truth about it from others."""
    digest = hashlib.sha256(f"{scene.picture.shape} {scene.label}".encode())
    digest.update(np.ascontiguousarray(scene.picture).data)
    if scene.mask is not None:
        digest.update(np.ascontiguousarray(scene.mask).data)
    if scene.depth is not None:
        digest.update(np.ascontiguousarray(scene.depth).data)
    return digest.hexdigest()[:16]


# -- files -----------------------------------------------------------------------------------------


def evidence_path(out: Path, settings: dict[str, Any]) -> Path:
    """Where a policy's evidence lies in a run directory: other settings, other file."""
    name = file_stem(settings["policy"]["name"])
    return out / f"{name}-{hash_of(settings)[:12]}.parquet"


def file_stem(name: str) -> str:
    """Part of a file name that reminds of a policy's name, which may be a path; not unique."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.")[-_MAX_STEM:]


def printable(text: str) -> str:
    """The text with what no terminal or page can show (parts of a path that are no UTF-8) written
    as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def hash_of(value: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_evidence(path: Path, evidence: Evidence) -> None:
    """Write the file whole or not at all; raises OSError as `canvit_gym.files.whole_file` does."""
    table = _table(evidence.seen)
    metadata = {
        "settings": evidence.settings,
        "versions": evidence.versions,
        "sha256": _content_hash(
            _trajectories(table), settings=evidence.settings, versions=evidence.versions
        ),
    }
    table = table.replace_schema_metadata({_KEY: json.dumps(metadata).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def load_evidence(path: Path, *, sha256: str | None = None) -> Evidence:
    """Load what `save_evidence` wrote.

    sha256: of the file, where a manifest says it. Raises FileNotFoundError, or ValueError where the
    file is damaged, another than the manifest's, or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; play the policy again with the same --out.")
    if sha256 is not None and file_sha256(path) != sha256:
        raise ValueError(
            f"{path} is damaged or was exchanged: its SHA-256 is not the one in the manifest; play "
            "the policy again with the same --out."
        )
    try:
        # The file itself: as a data set, pyarrow would take parts of its path for columns.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        metadata = json.loads((table.schema.metadata or {})[_KEY])
        settings, versions = metadata["settings"], metadata["versions"]
        seen = _trajectories(table)
        content = _content_hash(seen, settings=settings, versions=versions)
        if content != metadata["sha256"]:
            raise ValueError("its content changed after it was written")
    except _NO_EVIDENCE as error:
        raise ValueError(
            f"{path} holds no evidence of this version, or is damaged ({type(error).__name__}); "
            "play the policy again with the same --out."
        ) from error
    return Evidence(settings=settings, versions=versions, seen=seen)


def _content_hash(seen: Trajectories, *, settings: dict[str, Any], versions: dict[str, str]) -> str:
    digest = hashlib.sha256(hash_of([settings, versions, seen.names, seen.digests]).encode())
    arrays = {"scenes": seen.scenes, "viewpoints": seen.viewpoints}
    for kind in ("potentials", "outcome", "peeks"):
        named: dict[str, np.ndarray] = getattr(seen, kind)
        arrays |= {f"{kind}/{name}": values for name, values in named.items()}
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _escape(name: str) -> str:
    return re.sub(r"[\\\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", name)


def _unescape(name: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), name)


def _table(seen: Trajectories) -> pa.Table:
    count, glimpses = seen.num_scenes, seen.num_glimpses

    def for_each_scene(values: Any) -> pa.Array:
        of_row = pa.array(np.repeat(np.arange(count, dtype=np.int32), glimpses))
        return pa.DictionaryArray.from_arrays(of_row, pa.array(values, pa.string()))

    columns: dict[str, Any] = {
        "scene": np.repeat(seen.scenes, glimpses),
        "scene_name": for_each_scene([_escape(name) for name in seen.names]),
        "scene_digest": for_each_scene(seen.digests),
        "t": np.tile(np.arange(glimpses, dtype=np.int32), count),
    }
    for i, axis in enumerate(_VIEWPOINT):
        values = np.ascontiguousarray(seen.viewpoints[..., i]).ravel()
        columns[axis] = pa.array(values, mask=~seen.taken.ravel())
    columns |= {_POTENTIAL + name: values.ravel() for name, values in seen.potentials.items()}
    columns |= {name: _outcome_column(values) for name, values in seen.outcome.items()}
    for name, values in seen.peeks.items():
        columns[name] = pa.array(values.ravel(), mask=np.isnan(values.ravel()))
    return pa.table(columns)


def _outcome_column(values: np.ndarray) -> pa.Array:
    if values.ndim == 2:
        return pa.array(values.ravel())
    width = values.shape[2]
    offsets = np.arange(0, values.size + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _trajectories(table: pa.Table) -> Trajectories:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    glimpses = int(columns["t"].to_numpy().max()) + 1

    def grid(name: str) -> np.ndarray:
        column = columns[name]
        is_list = pa.types.is_list(column.type)
        values = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
        shape = (len(table) // glimpses, glimpses)
        return values.reshape(*shape, -1) if is_list else values.reshape(shape)

    def of_scenes(name: str) -> tuple[str, ...]:
        return tuple(columns[name].cast(pa.string()).to_pylist()[::glimpses])

    potentials = [name for name in columns if name.startswith(_POTENTIAL)]
    known = {*_SCENE, "t", *_VIEWPOINT, *potentials, *PEEKS}
    return Trajectories(
        scenes=grid("scene")[:, 0],
        names=tuple(map(_unescape, of_scenes("scene_name"))),
        digests=of_scenes("scene_digest"),
        viewpoints=np.nan_to_num(np.stack([grid(axis) for axis in _VIEWPOINT], axis=-1)),
        potentials={name.removeprefix(_POTENTIAL): grid(name) for name in potentials},
        outcome={name: grid(name) for name in columns if name not in known},
        peeks={name: grid(name) for name in PEEKS if name in columns},
    )
