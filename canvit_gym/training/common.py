"""Pieces that trainers share: a run that saves as it goes and continues, and classes under
positions."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canvit_gym.files import append_line, write_bytes
from canvit_gym.geometry import grid_centers

_SNAPSHOT, _LOG = "training.pt", "log.jsonl"


def load_snapshot(
    out: Path, *, settings: dict[str, Any], device: torch.device | str
) -> dict[str, Any] | None:
    """Loads what `save_snapshot` last left in `out`, or None where a run begins.

    Runs no code from the file. Raises ValueError where it is damaged, or of a run with other
    settings.
    """
    path = out / _SNAPSHOT
    if not has_snapshot(out):
        return None
    data = BytesIO(path.read_bytes())
    try:
        saved: dict[str, Any] = torch.load(data, map_location=device, weights_only=True)
        before = saved["run"]
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}), so its run can not be continued; remove "
            "it to begin anew, or choose another --out."
        ) from error
    if before != settings:
        raise ValueError(
            f"{out} holds a run with other settings ({before}); give the same settings to continue "
            "it, or another --out."
        )
    return saved


def has_snapshot(out: Path) -> bool:
    """Whether `out` holds a run that was interrupted."""
    return (out / _SNAPSHOT).exists()


def save_snapshot(out: Path, *, settings: dict[str, Any], **state: Any) -> None:
    """Replace the snapshot in `out`, whole or not at all; raises OSError as `whole_file` does."""
    # Through memory, because what torch raises on a full disk says neither that nor which file.
    buffer = BytesIO()
    torch.save({**state, "run": settings}, buffer)
    write_bytes(out / _SNAPSHOT, buffer.getvalue())


def append_log(out: Path, **figures: Any) -> None:
    """One more line of JSON in the run's log."""
    append_line(out / _LOG, json.dumps(figures))


def mask_at(masks: Tensor, positions: Tensor) -> Tensor:
    """Class under scene positions: uint8 [B, H, W], float32 [B, N, 2] -> int64 [B, N]."""
    size = masks.shape[-1]
    rows, cols = ((positions + 1) * (size / 2)).long().clamp(0, size - 1).unbind(-1)
    return masks.flatten(1).gather(1, rows * size + cols).long()


def grid_labels(masks: Tensor, grid_size: int) -> Tensor:
    """The class at the middle of each canvas cell: uint8 [B, S, S] -> int64 [B, G, G].

    So does the task where it judges cells; the published trainer took each one's top left pixel.
    """
    positions = grid_centers(grid_size, device=masks.device).expand(len(masks), -1, -1)
    return mask_at(masks, positions).unflatten(1, (grid_size, grid_size))
