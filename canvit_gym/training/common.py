"""Pieces that trainers share: snapshots and logs, numbers that a seed decides, and classes under
positions."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from canvit_gym.files import append_line, write_bytes, write_text
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


def trim_log(out: Path, *, step: int) -> None:
    """Drop lines of the run's log that lie after `step`, which come again."""
    trim_lines(out / _LOG, key="step", last=step)


def trim_lines(path: Path, *, key: str, last: int) -> None:
    """Drop the lines of JSON whose `key` is more than `last`, and lines that were cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            before = json.loads(line)[key] <= last
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            continue
        kept += [line + "\n"] if before else []
    write_text(path, "".join(kept))


def compile_core(core: nn.Module, *, backend: str = "inductor") -> None:
    """Let torch.compile make a core faster, in place, so that names of weights stay."""
    # Backward runs outside autocast, and a compiled one would assume the forward's.
    torch._functorch.config.backward_pass_autocast = "off"
    core.compile(dynamic=False, backend=backend)


Purpose = Literal["augmentation", "order", "viewpoints", "held out"]
"""What a number is drawn for; viewpoints share theirs with dropout."""


def generator_for(purpose: Purpose, *, seed: int, step: int) -> torch.Generator:
    """A generator of its own for each (seed, step, purpose), on the CPU.

    So a continued run draws what an unbroken one would have drawn, with no generator saved.
    """
    return torch.Generator().manual_seed(seed_for(purpose, seed=seed, step=step))


def seed_for(purpose: Purpose, *, seed: int, step: int) -> int:
    """The seed of `generator_for`."""
    return (seed * 1_000_003 + step) * 4 + get_args(Purpose).index(purpose)


class EpochOrder:
    """Returns which of `size` things each step takes: all of them once an epoch, each epoch in an
    order of its own that (seed, epoch) decides, or, unless `shuffled`, as they are numbered."""

    def __init__(self, size: int, *, seed: int, shuffled: bool = True) -> None:
        self.size, self.seed, self.shuffled = size, seed, shuffled
        self._orders: dict[int, Tensor] = {}

    def indices(self, step: int, count: int) -> list[int]:
        """The indices of the `count` things of a step."""
        places = [divmod(step * count + i, self.size) for i in range(count)]
        if not self.shuffled:
            return [place for _, place in places]
        needed = {epoch for epoch, _ in places}
        self._orders = {
            epoch: order for epoch, order in self._orders.items() if epoch in needed
        } | {epoch: self._order(epoch) for epoch in needed - self._orders.keys()}
        return [int(self._orders[epoch][place]) for epoch, place in places]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(
            self.size, generator=generator_for("order", seed=self.seed, step=epoch)
        )


def values_at(maps: Tensor, positions: Tensor) -> Tensor:
    """Values under scene positions: [B, H, W], float32 [B, N, 2] -> [B, N]."""
    size = maps.shape[-1]
    rows, cols = ((positions + 1) * (size / 2)).long().clamp(0, size - 1).unbind(-1)
    return maps.flatten(1).gather(1, rows * size + cols)


def mask_at(masks: Tensor, positions: Tensor) -> Tensor:
    """Class under scene positions: uint8 [B, H, W], float32 [B, N, 2] -> int64 [B, N]."""
    return values_at(masks, positions).long()


def grid_values(maps: Tensor, grid_size: int) -> Tensor:
    """The value at the middle of each canvas cell: [B, S, S] -> [B, G, G].

    So does the task where it judges cells; the published trainer took each one's top left pixel.
    """
    positions = grid_centers(grid_size, device=maps.device).expand(len(maps), -1, -1)
    return values_at(maps, positions).unflatten(1, (grid_size, grid_size))


def grid_labels(masks: Tensor, grid_size: int) -> Tensor:
    """The class at the middle of each canvas cell: uint8 [B, S, S] -> int64 [B, G, G]."""
    return grid_values(masks, grid_size).long()
