"""The training loop, whatever is trained and on what: an objective says that.

A run directory holds

training.pt: the snapshot that a run continues from: tensors and plain values, no pickle.
log.jsonl and tensorboard/: figures, smoothed over steps, and those of validations.
config.json and model.safetensors: what is trained, as of the last snapshot or the best validation.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from canvit_gym.files import require_writable
from canvit_gym.training.common import append_log, load_snapshot, save_snapshot, trim_log
from canvit_gym.training.processes import Processes

BatchT = TypeVar("BatchT")
_BatchT_contra = TypeVar("_BatchT_contra", contravariant=True)

Figures = Mapping[str, Any]
"""By name, a number, or a list with one for each glimpse."""

_SMOOTHING = 0.98


class TrainingDiverged(ValueError):
    """Losses or weights are no longer finite; the last snapshot is from before."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How far a run is. step: updates made. seconds: spent on them, over all its parts. figures:
    of the validation that chose this state; None where the latest is kept."""

    step: int
    seconds: float
    figures: Figures | None = None


class Objective(Protocol[_BatchT_contra]):
    """What is trained, and how a batch becomes gradients.

    model: all that a snapshot holds. optimizers: by name; the learning rates that they are made
    with are the peaks. clip_norm: largest norm of the gradients of `clipped`, None for any.
    headline: the figure of validations whose last value chooses what is kept, higher is better;
    None keeps the latest.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]: ...

    @property
    def clip_norm(self) -> float | None: ...

    @property
    def clipped(self) -> Sequence[Tensor]: ...

    @property
    def headline(self) -> str | None: ...

    def learning_rate_factor(self, step: int) -> float:
        """How much of the peaks the learning rates are in this step."""
        ...

    def backward(self, batch: _BatchT_contra, *, step: int) -> dict[str, Tensor]:
        """Add gradients for a batch; returns detached figures, the "loss" among them.

        Whatever is drawn at random depends on the run's seed and on `step` alone.
        """
        ...

    def validate(self) -> Figures:
        """Figures on scenes that are not trained on; changes nothing."""
        ...

    def save(self, out: Path, finished: Finished) -> None:
        """Write the checkpoint, with a record of the run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a run is, and what happens how often, in steps; it always ends with all of it."""

    steps: int
    save_every: int
    log_every: int
    validate_every: int | None = None
    validate_first: bool = False
    """Whether there is a validation before the first step, too."""


@dataclass(kw_only=True)
class _Progress:
    """What a run carries from step to step beside weights."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    smooth: dict[str, float] = field(default_factory=dict)


Peaks = Mapping[str, Sequence[float]]
"""Highest learning rates of the groups of each optimizer, by its name."""


def peaks_of(objective: Objective[Any]) -> Peaks:
    """The peaks of an objective that no step was taken with yet."""
    return {
        name: [group["lr"] for group in optimizer.param_groups]
        for name, optimizer in objective.optimizers.items()
    }


def update(
    objective: Objective[BatchT],
    batch: BatchT,
    *,
    step: int,
    peaks: Peaks,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """Take one step, and return its figures, with the gradients' norm before clipping."""
    factor = objective.learning_rate_factor(step)
    for name, optimizer in objective.optimizers.items():
        optimizer.zero_grad()
        for group, peak in zip(optimizer.param_groups, peaks[name], strict=True):
            group["lr"] = peak * factor
    figures = objective.backward(batch, step=step)
    if processes is not None:
        processes.average_gradients(objective.model.parameters())
    if objective.clip_norm is not None:
        gradients = [p.grad for p in objective.clipped if p.grad is not None]
        figures["grad_norm"] = get_total_norm(gradients)
        clip_grads_with_norm_(objective.clipped, objective.clip_norm, figures["grad_norm"])
    for optimizer in objective.optimizers.values():
        optimizer.step()
    return figures


class Loop(Generic[BatchT]):
    """A run of an objective over batches, one for each step."""

    def __init__(
        self,
        objective: Objective[BatchT],
        batches: Dataset[BatchT],
        *,
        pace: Pace,
        settings: dict[str, Any],
        out: Path,
        device: torch.device | str,
        workers: int = 1,
        processes: Processes | None = None,
        show: bool = True,
    ) -> None:
        """settings: all that decides the outcome, plain values; a run in `out` must have the same.
        workers: processes that prepare batches. show: whether there is a progress bar.
        """
        self.objective, self.batches, self.pace = objective, batches, pace
        self.settings, self.out, self.device, self.workers = settings, out, device, workers
        self.processes = Processes() if processes is None else processes
        self.show = show and self.processes.is_first
        self._progress = _Progress()
        self._board: _Board | None = None
        self._pending: list[dict[str, Tensor]] = []
        self._peaks = peaks_of(objective)

    def restore(self) -> bool:
        """Continue the run that `out` holds, and say whether there was one.

        Raises ValueError where that is damaged, or has other settings, and OSError where `out` can
        not be written to.
        """
        require_writable(self.out)
        saved = load_snapshot(self.out, settings=self.settings, device=self.device)
        if saved is None:
            return False
        try:
            self.objective.model.load_state_dict(saved["model"])
            for name, optimizer in self.objective.optimizers.items():
                optimizer.load_state_dict(saved[name])
            self._progress = _Progress(
                **{name: saved[name] for name in ("step", "seconds", "best", "smooth")}
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The snapshot in {self.out} is not of this run ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); choose another --out."
            ) from error
        return True

    def run(self) -> None:
        """Train until the last step, from where `restore` continued.

        SIGUSR1 asks for a snapshot behind the step that is being made; one process alone listens.
        """
        self.processes.broadcast(self.objective.model)
        if self.processes.is_first:
            trim_log(self.out, step=self._progress.step)
            self._board = _Board(self.out, self._progress.step)
        # Several processes would have to agree on the step.
        request = _SaveOnRequest(listens=self.processes.world == 1)
        try:
            self._run(request)
        finally:
            request.close()
            if self._board is not None:
                self._board.close()

    def _run(self, request: _SaveOnRequest) -> None:
        at, pace = self._progress, self.pace
        started = time.monotonic() - at.seconds
        steps = range(at.step, pace.steps)
        loader = DataLoader(
            _Prepared(self.batches),
            sampler=steps,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.device(self.device).type == "cuda",
        )
        bar = tqdm(steps, initial=at.step, total=pace.steps, unit="step", disable=not self.show)
        if steps and at.step == 0 and pace.validate_first:
            self._validate()
        for step, batch in zip(bar, loader, strict=False):
            if isinstance(batch, _Failure):
                raise batch.error
            figures = update(
                self.objective, batch, step=step, peaks=self._peaks, processes=self.processes
            )
            self._pending.append(figures)
            at.step, at.seconds = step + 1, time.monotonic() - started
            is_last = at.step == pace.steps
            if at.step % pace.log_every == 0 or is_last:
                self._log(bar)
            if pace.validate_every and (at.step % pace.validate_every == 0 or is_last):
                self._validate()
            if at.step % pace.save_every == 0 or is_last or request.take():
                self._save()
            at.seconds = time.monotonic() - started

    def _log(self, bar: tqdm[int]) -> None:
        self._settle()
        at = self._progress
        bar.set_postfix({k: f"{v:.3f}" for k, v in at.smooth.items()}, refresh=False)
        self._write("train", at.smooth)

    def _settle(self) -> None:
        """Take in the figures of the steps since the last time; TrainingDiverged for a loss that
        is not finite.

        Now and then, because reading a figure waits for the device.
        """
        first = self._progress.step - len(self._pending)
        pending, self._pending = self._pending, []
        smooth = self._progress.smooth
        for step, figures in enumerate(pending, start=first):
            values = torch.stack([value.float() for value in figures.values()])
            for key, number in zip(figures, self.processes.average(values).tolist(), strict=True):
                if key == "loss" and not math.isfinite(number):
                    raise self._diverged(f"the loss is {number} in step {step}")
                if number == number:
                    smooth[key] = _SMOOTHING * smooth.get(key, number) + (1 - _SMOOTHING) * number

    def _validate(self) -> None:
        at, objective = self._progress, self.objective
        self.processes.average_statistics(objective.model)
        if self.processes.is_first:
            try:
                figures = objective.validate()
            except Exception as error:
                if objective.headline is not None:
                    raise
                # Nothing depends on it, so a long run goes on.
                figures = {"error": f"{type(error).__name__}: {error}"}
                print(f"\nA validation failed: {figures['error']}", file=sys.stderr)
            self._write("validation", figures)
            if objective.headline is not None:
                value = figures[objective.headline]
                headline = float(value[-1] if isinstance(value, list) else value)
                if headline > at.best:
                    at.best = headline
                    objective.save(
                        self.out, Finished(step=at.step, seconds=at.seconds, figures=figures)
                    )
        self.processes.wait()

    def _save(self) -> None:
        """Replace the snapshot, and the checkpoint where validations do not choose it."""
        self._settle()
        at, objective = self._progress, self.objective
        self.processes.average_statistics(objective.model)
        bad = [
            name
            for name, tensor in objective.model.state_dict().items()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all())
        ]
        if bad:
            raise self._diverged(f"{bad[0]} is not finite after step {at.step - 1}")
        if self.processes.is_first:
            optimizers = {
                name: optimizer.state_dict() for name, optimizer in objective.optimizers.items()
            }
            save_snapshot(
                self.out,
                settings=self.settings,
                model=objective.model.state_dict(),
                **optimizers,
                step=at.step,
                seconds=at.seconds,
                best=at.best,
                smooth=dict(at.smooth),
            )
            if objective.headline is None:
                objective.save(self.out, Finished(step=at.step, seconds=at.seconds))
        self.processes.wait()

    def _write(self, kind: str, figures: Figures) -> None:
        if self._board is None:
            return
        at = self._progress
        append_log(self.out, step=at.step, seconds=at.seconds, **figures)
        self._board.write(kind, figures, step=at.step)

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"Training diverged: {what}; the last snapshot in {self.out} is from before that. Give "
            "lower learning rates or more warm-up, and another --out."
        )


class _Prepared(Dataset[Any]):
    """Batches that other processes prepare: where one can not be made, what that raised, for a
    loader would bury its sentence under a traceback."""

    def __init__(self, batches: Dataset[Any]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except Exception as error:
            return _Failure(error)


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _SaveOnRequest:
    """Whether SIGUSR1 came, which cluster schedulers send before they end a job; in the main thread
    of a process alone, where signals are handled."""

    def __init__(self, *, listens: bool) -> None:
        self.requested = False
        self._former: Any = None
        if listens and hasattr(signal, "SIGUSR1") and current_thread() is main_thread():
            self._former = signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.requested = True

    def take(self) -> bool:
        """Whether a request came since the last time."""
        requested, self.requested = self.requested, False
        return requested

    def close(self) -> None:
        if self._former is not None:
            signal.signal(signal.SIGUSR1, self._former)


class _Board:
    """TensorBoard's files; without TensorBoard nothing, for log.jsonl says the same."""

    def __init__(self, out: Path, step: int) -> None:
        self._writer: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, kind: str, figures: Figures, *, step: int) -> None:
        """Add every number, that of a list with its place: t0, t1, ..."""
        for name, value in figures.items():
            places = enumerate(value) if isinstance(value, list) else [("", value)]
            for t, number in places:
                if self._writer is not None and isinstance(number, int | float):
                    tag = f"{kind}/{name}" + (f"/t{t}" if t != "" else "")
                    try:
                        self._writer.add_scalar(tag, number, step)
                    except OSError as error:
                        self._give_up(error)

    def close(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        print(f"\nTensorBoard's files can not be written any more: {error}", file=sys.stderr)
