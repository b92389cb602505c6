"""Mask IoU: what evidence says of each class in each scene, beside how large it is there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from canvit_agents.judging.evaluate import Benchmark, make_benchmark
from canvit_agents.judging.evidence import Evidence, printable, scene_digest
from canvit_agents.judging.manifest import load_policy_evidence, read_manifest
from canvit_gym.files import require_writable, write_bytes

_GIVE = "give the run of a task that labels places, such as CanViT-ADE20K-v0's"


def write_mask_rows(run: Path, *, out: Path) -> int:
    """Write a Parquet file with the IoU of each mask in a run, and return its number of rows.

    A row is a class in a scene after a glimpse, where the scene's mask or the prediction has it:
    policy; scene, scene_name; class_id (from 0), class_name; t; canvas_grid_size; inter_px and
    union_px; gt_area_px, how many pixels it really has, 0 where it was only predicted.

    Masks are looked up again, so the run's scenes and weights must be here. Raises ValueError or
    OSError, in one sentence, where they are not, or the run is of another task.
    """
    manifest = read_manifest(run)
    names = list(manifest["policies"])
    evidence = {n: load_policy_evidence(run, manifest=manifest, name=n) for n in names}
    first = evidence[names[0]]
    if not {"intersection", "union"} <= first.seen.outcome.keys():
        raise ValueError(f"{run} is a run of {first.settings['env']}, which has no masks; {_GIVE}.")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; give --out a file, such as masks.parquet.")
    require_writable(out.parent)
    kwargs = {**first.settings["env_kwargs"], "device": "cpu"}
    benchmark = make_benchmark(
        first.settings["env"], split=first.settings["split"], env_kwargs=kwargs
    )
    areas = _areas(benchmark, first)
    class_names = benchmark.env.rollout.task.class_names
    table = pa.concat_tables(
        _rows(found, name=name, areas=areas, class_names=class_names)
        for name, found in evidence.items()
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(out, buffer.getvalue())
    return len(table)


def _areas(benchmark: Benchmark, evidence: Evidence) -> np.ndarray:
    """How many pixels of each class the masks have: int64 [scenes, classes]."""
    seen, task = evidence.seen, benchmark.env.rollout.task
    classes = len(task.class_names)
    areas = []
    for index, digest in zip(seen.scenes.tolist(), seen.digests, strict=True):
        scene = benchmark.env.scenes[index]
        if scene_digest(scene) != digest:
            raise ValueError(
                f"Scene {index} ({scene.name}) is another one than in the run; give the run's own "
                "pictures, or evaluate again."
            )
        mask = task.targets([scene], device=torch.device("cpu"))[0]
        areas.append(np.bincount(mask.numpy().ravel(), minlength=256)[:classes])
    found = np.stack(areas)
    intersection, union = seen.outcome["intersection"], seen.outcome["union"]
    if (intersection > found[:, None]).any() or (union < found[:, None]).any():
        raise ValueError(
            "The masks here have another size or other classes than in the run; evaluate again."
        )
    return found


def _rows(
    evidence: Evidence, *, name: str, areas: np.ndarray, class_names: tuple[str, ...]
) -> pa.Table:
    seen = evidence.seen
    union = seen.outcome["union"]
    scene, t, class_id = np.nonzero(union)
    return pa.table(
        {
            "policy": pa.array([printable(name)] * len(scene), pa.string()).dictionary_encode(),
            "scene": seen.scenes[scene],
            "scene_name": _named(seen.names, scene),
            "class_id": class_id.astype(np.int32),
            "class_name": _named(class_names, class_id),
            "t": t.astype(np.int32),
            "canvas_grid_size": np.full(
                len(scene), evidence.settings["glimpse"]["canvas_grid_size"], np.int32
            ),
            "inter_px": seen.outcome["intersection"][scene, t, class_id].astype(np.int64),
            "union_px": union[scene, t, class_id].astype(np.int64),
            "gt_area_px": areas[scene, class_id],
        }
    )


def _named(names: tuple[str, ...], indices: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(indices.astype(np.int32)), pa.array(list(map(printable, names)), pa.string())
    )
