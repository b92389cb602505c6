"""Training in several processes, each with a share of every batch.

No wrapper around the model: a step has several backward passes and calls inner modules directly,
which wrappers of one forward and one backward get wrong without a word. Instead gradients gather
in each process, and are averaged in one flat reduction a step, before clipping.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

_PATIENCE = timedelta(hours=4)
"""How long processes wait for the first one, which validates alone."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run and which of them this is; one alone by default."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that validates, logs and saves."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` scenes; ValueError unless all parts are equal."""
        if count % self.world:
            raise ValueError(
                f"scenes_per_step is {count}, which {self.world} processes can not share equally; "
                "give a multiple of their number."
            )
        size = count // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    @torch.no_grad()
    def broadcast(self, model: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average all gradients over the processes, in place."""
        if self.world == 1:
            return
        # Every one, present or not, so that the buffers of all processes match.
        parameters = [p for p in parameters if p.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        )
        distributed.all_reduce(flat)
        flat /= self.world
        for p, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = mean.view_as(p) if p.grad is None else p.grad.copy_(mean.view_as(p))

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Average the running statistics of BatchNorms, each of which saw its share alone."""
        if self.world == 1:
            return
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for statistics in (module.running_mean, module.running_var):
                    if statistics is not None:
                        distributed.all_reduce(statistics)
                        statistics /= self.world

    def average(self, values: Tensor) -> Tensor:
        """The mean of these numbers over the processes."""
        if self.world > 1:
            distributed.all_reduce(values)
            values = values / self.world
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def launched(device: str) -> Iterator[tuple[Processes, str]]:
    """Gives the processes that torchrun launched, or this one alone, and this one's device.

    With "cuda" each process takes the GPU of its local rank. GPUs multiply float32 matrices in
    TF32, as the published runs did.
    """
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE
    )
    try:
        yield Processes(rank=distributed.get_rank(), world=world), device
    finally:
        distributed.destroy_process_group()
