"""Training in several processes: each has a share, and together they are one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ade20k_probe import RUN as PROBE_RUN
from test_distill import RUN, TinyTeacher, batches_of
from test_finetune import RUN as TUNE_RUN
from torch import Tensor, multiprocessing

from canvit_gym.training import processes as module
from canvit_gym.training.__main__ import main
from canvit_gym.training.ade20k_probe import train_ade20k_probe
from canvit_gym.training.batches import SceneBatches
from canvit_gym.training.distill import Distillation, DistillationObjective
from canvit_gym.training.finetune import finetune
from canvit_gym.training.pretrain import pretrain
from canvit_gym.training.processes import Processes, launched

TEN = replace(RUN, steps=10, save_every=5, token_loss=1.0, class_loss=0.3, optimizer="muon",
              flip=True, crop_area=0.4, validation_scenes=4, validate_every=5)  # fmt: skip


def pretrain_and_record(run: Distillation, out: Path, record: Path) -> None:
    """What one process does; its gradients' norms, before and after averaging, go to `record`."""
    norms: list[tuple[float, float]] = []
    average = Processes.average_gradients

    def recorded(self: Processes, parameters: Any) -> None:
        parameters = list(parameters)
        before = norm_of(parameters)
        average(self, parameters)
        norms.append((before, norm_of(parameters)))

    def norm_of(parameters: list[Tensor]) -> float:
        return float(torch.nn.utils.get_total_norm([p.grad for p in parameters]))

    with pytest.MonkeyPatch.context() as patch, launched("cpu") as (processes, device):
        patch.setattr(Processes, "average_gradients", recorded)
        model = pretrain(
            run, scenes="emoji", teacher=TinyTeacher(classes=16), out=out, device=device,
            workers=0, processes=processes, show=False,
        )  # fmt: skip
    torch.save({"norms": norms, "model": model.state_dict()}, record)


def _child(
    rank: int, world: int, port: int, path: list[str], run: Any, out: Path, stop_at: int | None
) -> None:
    sys.path[:] = path
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    backward = DistillationObjective.backward

    def stopping(self: Any, batch: Any, *, step: int) -> dict[str, Tensor]:
        if step == stop_at:
            raise RuntimeError("stopped here")
        return backward(self, batch, step=step)

    DistillationObjective.backward = stopping  # type: ignore[method-assign]
    pretrain_and_record(run, out, out.parent / f"{out.name}-{rank}.pt")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_processes(
    world: int, run: Distillation, out: Path, *, stop_at: int | None = None
) -> list[dict[str, Any]]:
    """What each of these processes recorded."""
    arguments = (world, _free_port(), list(sys.path), run, out, stop_at)
    multiprocessing.spawn(_child, arguments, nprocs=world)
    return [torch.load(out.parent / f"{out.name}-{rank}.pt") for rank in range(world)]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    first, second = in_processes(2, TEN, tmp_path / "two")
    pretrain_and_record(TEN, tmp_path / "one", tmp_path / "one.pt")
    alone = torch.load(tmp_path / "one.pt")
    own, averaged = (torch.tensor([step[i] for step in first["norms"]]) for i in (0, 1))
    others_own, others = (torch.tensor([step[i] for step in second["norms"]]) for i in (0, 1))
    assert torch.equal(averaged, others) and len(averaged) == 10
    assert bool((own != others_own).all())  # of other scenes
    # The mean of means over halves, in another order: some last places of float32, which grow.
    wanted = torch.tensor([step[1] for step in alone["norms"]])
    torch.testing.assert_close(averaged[:1], wanted[:1], rtol=1e-5, atol=0)
    torch.testing.assert_close(averaged, wanted, rtol=1e-2, atol=0)
    for name, tensor in first["model"].items():
        assert torch.equal(second["model"][name], tensor), name
    logs = [(tmp_path / which / "log.jsonl").read_text().splitlines() for which in ("one", "two")]
    assert len(logs[0]) == len(logs[1])  # one process of two writes
    losses = [[line["loss"] for line in map(json.loads, log) if "loss" in line] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_processes_continue_a_run_exactly_and_in_another_number(tmp_path: Path) -> None:
    whole = in_processes(2, TEN, tmp_path / "whole")[0]["model"]
    broken = tmp_path / "broken"
    with pytest.raises(multiprocessing.ProcessRaisedException, match="stopped here"):
        in_processes(2, TEN, broken, stop_at=7)
    assert torch.load(broken / "training.pt", weights_only=True)["step"] == 5
    shutil.copytree(broken, tmp_path / "alone")
    for record in in_processes(2, TEN, broken):
        assert len(record["norms"]) == 5
        for name, tensor in whole.items():
            assert torch.equal(record["model"][name], tensor), name
    pretrain_and_record(TEN, tmp_path / "alone", tmp_path / "alone.pt")
    for name, tensor in torch.load(tmp_path / "alone.pt")["model"].items():
        # Muon makes of rounding in a gradient that is near zero up to a step of 0.02.
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0.02, msg=name)


def _tune_child(
    rank: int, world: int, port: int, path: list[str], folder: Path, ade20k: Path
) -> None:
    sys.path[:] = path
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    with launched("cpu") as (processes, device):
        tuned = finetune(
            TUNE_RUN, init="mini", probe=None, scenes="emoji", out=folder / "tuned", device=device,
            workers=0, processes=processes, show=False,
        )  # fmt: skip
        probe = train_ade20k_probe(
            PROBE_RUN, scenes=ade20k, out=folder / "probe", backbone="mini", device=device,
            workers=0, processes=processes, show=False,
        )  # fmt: skip
    found = {"tuned": tuned.state_dict(), "probe": probe.state_dict()}
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
def test_the_other_objectives_are_shared_too(tmp_path: Path, ade20k_folder: Path) -> None:
    arguments = (2, _free_port(), list(sys.path), tmp_path, ade20k_folder)
    multiprocessing.spawn(_tune_child, arguments, nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(second[name][key], tensor), key
    alone = finetune(
        TUNE_RUN, init="mini", probe=None, scenes="emoji", out=tmp_path / "alone", workers=0,
        show=False,
    )  # fmt: skip
    for key, tensor in alone.state_dict().items():
        # Rounding of a tiny gradient may turn a step of some 2.5e-5 around.
        torch.testing.assert_close(first["tuned"][key], tensor, rtol=0, atol=1e-5, msg=key)


def test_shares_are_disjoint_and_whole() -> None:
    run = replace(RUN, flip=True, crop_area=0.4)
    whole = batches_of(run)[2]
    scenes, indices = batches_of(run).scenes, range(10)
    parts = [
        SceneBatches(scenes, indices, run=run, processes=Processes(rank=rank, world=2))[2]
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([part.pictures for part in parts]), whole.pictures)
    objectives = [
        DistillationObjective(run, teacher_dim=12, processes=Processes(rank=rank, world=2))
        for rank in range(2)
    ]
    alone = DistillationObjective(run, teacher_dim=12).rollouts(5)
    plans = [objective.rollouts(5) for objective in objectives]
    for together, first, second in zip(alone, *plans, strict=True):
        assert len(together) == len(first) == len(second)  # or processes would wait for ever
        for views in zip(together, first, second, strict=True):
            assert torch.equal(views[0].rows, torch.cat([view.rows for view in views[1:]]))


def test_a_number_of_processes_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="is 4, which 3 processes can not share equally; give a"):
        Processes(rank=1, world=3).share(4)


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched("cpu") as (processes, device):
        assert processes == Processes() and device == "cpu" and processes.is_first
    assert module.distributed.is_initialized() is False


def test_the_module_for_torchrun_has_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["pretrain", "--preset", "x", "--scenes", "x", "--teacher", "x", "--out", "x"]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: preset is 'x'; choose one of") and error.count("\n") == 1
