"""Evidence made by hand, for what needs no model."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from canvit_agents.judging.evidence import Evidence, Trajectories
from canvit_gym.tasks.classification import ACCURACY
from canvit_gym.tasks.segmentation import Segmentation


def classified(correct: Any, *, name: str = "a", learned: bool = False, **changes: Any) -> Evidence:
    """Of a classification: correct [N, T + 1], and potentials that follow from it."""
    correct = np.array(correct, dtype=bool)
    labels = np.broadcast_to(np.arange(len(correct), dtype=np.int32)[:, None], correct.shape)
    seen = trajectories(
        potentials={
            "log_prob": np.where(correct, -0.25, -1.5),
            "correct": correct,
            "neg_entropy": np.where(correct, -0.5, -2.0),
        },
        outcome={"label": labels, "prediction": labels + ~correct, "correct": correct},
    )
    return Evidence(settings=settings(name, learned, **changes), versions={}, seen=seen)


def stopped(evidence: Evidence, glimpses: Any) -> Evidence:
    """The same, as if each scene had got so many glimpses only, [N]: after them all stays."""
    seen, last = evidence.seen, np.array(glimpses)[:, None] - 1
    where = np.minimum(np.arange(seen.num_glimpses), last).clip(0)

    def held(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = np.arange(seen.num_scenes)[:, None]
        return {name: x[rows, where] for name, x in values.items()}

    taken = np.arange(seen.num_glimpses) <= last
    return replace(
        evidence,
        seen=replace(
            seen,
            viewpoints=seen.viewpoints * taken[..., None].astype(np.float32),
            potentials=held(seen.potentials),
            outcome=held(seen.outcome),
        ),
    )


def segmented(intersection: Any, union: Any, *, name: str = "a", **changes: Any) -> Evidence:
    """Of a segmentation: intersection and union [N, T + 1, classes]."""
    counts = {"intersection": np.array(intersection), "union": np.array(union)}
    share = counts["intersection"].sum(axis=2) / counts["union"].sum(axis=2).clip(1)
    seen = trajectories(
        potentials={"log_likelihood": -share, "pixel_accuracy": share, "neg_entropy": -share},
        outcome={key: value.astype(np.int32) for key, value in counts.items()},
    )
    changes = {
        "metric": {"name": "mean_iou", "label_size_px": 8},
        "metrics": [asdict(metric) for metric in Segmentation.metrics],
        **changes,
    }
    changes.setdefault("potential", "log_likelihood")
    return Evidence(settings=settings(name, False, **changes), versions={}, seen=seen)


def trajectories(*, potentials: dict[str, Any], outcome: dict[str, Any]) -> Trajectories:
    shape = next(iter(potentials.values())).shape
    rng = np.random.default_rng(0)
    return Trajectories(
        scenes=np.arange(shape[0]),
        names=tuple(f"scene/{i}" for i in range(shape[0])),
        digests=tuple(f"{i:016x}" for i in range(shape[0])),
        viewpoints=(rng.random((*shape, 3)) / 2).astype(np.float32),
        potentials={name: np.asarray(x, dtype=np.float32) for name, x in potentials.items()},
        outcome=outcome,
        peeks={},
    )


def settings(name: str, learned: bool, **changes: Any) -> dict[str, Any]:
    return {
        "env": "CanViT-Emoji-v0",
        "env_kwargs": {},
        "split": "test",
        "num_scenes": 3,
        "seed": 0,
        "budget": 1,
        "num_glimpses": 2,
        "potential": "log_prob",
        "metric": {"name": "accuracy"},
        "metrics": [asdict(ACCURACY)],
        "confidence": "neg_entropy",
        "candidates": None,
        "backbone": {"name": "mini", "sha256": "0" * 64},
        "precision": "float32",
        "glimpse": {"glimpse_size_px": 32, "canvas_grid_size": 8, "min_scale": 0.25},
        "flops_per_glimpse": 2_000_000,
        "policy": {"name": name, "learned": learned, "initial_glimpse": "full_scene"},
        **changes,
    }
