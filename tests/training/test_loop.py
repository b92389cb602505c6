"""Whatever ends a run, no more than what came after its last snapshot is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill import RUN, log_of, loop_of, objective_of

from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.training import loop as module

ENDLESS = replace(RUN, steps=10_000, save_every=3, scenes_per_step=2, statistics_scenes=4)

_PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from test_distill import TinyTeacher
from test_loop import ENDLESS
from canvit_gym.training.pretrain import pretrain

pretrain(ENDLESS, scenes="emoji", teacher=TinyTeacher(), out=Path(sys.argv[1]), workers=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a signal of POSIX")
def test_a_run_that_is_killed_continues(tmp_path: Path) -> None:
    path = os.pathsep.join(path for path in sys.path if path)
    for round_ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        before = step_of(tmp_path)
        while step_of(tmp_path) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.03)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert step_of(tmp_path) >= before + 3, round_
    snapshot = torch.load(tmp_path / "training.pt", weights_only=True)
    # Weights and config are those of the snapshot, or of the one before it.
    CanViTForPretraining.from_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["training"]
    assert 0 <= snapshot["step"] - record["finished_steps"] <= ENDLESS.save_every
    logged = [line["step"] for line in log_of(tmp_path) if "loss" in line]
    assert logged == sorted(set(logged))  # lines past a snapshot came again, once


def step_of(out: Path) -> int:
    """Of the last whole snapshot."""
    path = out / "training.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUN, steps=6, save_every=2)
    whole = objective_of(run)
    loop_of(run, tmp_path / "whole", whole).run()
    write, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith("training.pt"):
            written.append(path)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="training.pt can not be written: No space .* free some"):
            loop_of(run, tmp_path / "full").run()
    continued = objective_of(run)
    loop = loop_of(run, tmp_path / "full", continued)
    assert loop.restore() and step_of(tmp_path / "full") == 2
    loop.run()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], tensor), name


def test_tensorboard_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = pytest.importorskip("torch.utils.tensorboard")

    class Full:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def add_scalar(self, *args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(board, "SummaryWriter", Full)
    loop_of(replace(RUN, steps=2), tmp_path).run()
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2]
    said = capsys.readouterr().err
    assert said.count("TensorBoard's files can not be written any more") == 1


def test_without_tensorboard_there_is_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    loop_of(replace(RUN, steps=1), tmp_path).run()
    assert [line["step"] for line in log_of(tmp_path)] == [1]
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_has_every_figure(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = module._Board(tmp_path, 0)
    board.write("validation", {"top1": [0.25, 0.5], "loss": 2.0, "error": "x"}, step=3)
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = {"validation/top1/t0": 0.25, "validation/top1/t1": 0.5, "validation/loss": 2.0}
    assert set(events.Tags()["scalars"]) == set(tags)
    for tag, value in tags.items():
        (event,) = events.Scalars(tag)
        assert (event.step, event.value) == (3, value)


def test_a_snapshot_of_another_objective_is_refused(tmp_path: Path) -> None:
    loop_of(replace(RUN, steps=1), tmp_path).run()
    other = replace(RUN, steps=1, optimizer="muon")
    with pytest.raises(ValueError, match="is not of this run .* choose another --out"):
        loop_of(other, tmp_path).restore()


def test_a_place_that_can_not_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="part of that path is a file"):
        loop_of(RUN, tmp_path / "file" / "run").restore()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_batch_raised_is_its_own_sentence(tmp_path: Path, workers: int) -> None:
    class Gone(torch.utils.data.Dataset[Any]):
        def __getitem__(self, step: int) -> Any:
            raise OSError("the pictures are gone; look for them.")

    loop = loop_of(replace(RUN, steps=2), tmp_path)
    loop.batches, loop.workers = Gone(), workers
    with pytest.raises(OSError) as caught:
        loop.run()
    assert str(caught.value) == "the pictures are gone; look for them."


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal of POSIX")
def test_a_signal_asks_for_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(RUN, steps=6, save_every=100)
    objective = objective_of(run)
    backward = objective.backward

    def signalled(batch: Any, *, step: int) -> dict[str, torch.Tensor]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        if step == 4:
            assert step_of(tmp_path) == 3
            raise KeyboardInterrupt
        return backward(batch, step=step)

    monkeypatch.setattr(objective, "backward", signalled)
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        loop_of(run, tmp_path, objective).run()
    assert signal.getsignal(signal.SIGUSR1) == before
