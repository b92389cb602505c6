"""The protocol of tasks: a belief read from the state, and how good that belief is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from canvit_gym.model.canvit import Core, RecurrentState
from canvit_gym.scenes.base import Scene


class TaskModel(Protocol):
    """A frozen CanViT with the head that the task reads."""

    canvit: Core

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def init_state(self, *, batch_size: int, canvas_grid_size: int) -> RecurrentState: ...

    def logits(self, state: RecurrentState) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good B beliefs are.

    potentials: float32 [B] by name; the reward is a difference of one of them.
    outcome: what infos and evaluations report beside them, [B, ...] by name.
    """

    potentials: dict[str, Tensor]
    outcome: dict[str, Tensor]


class Task(Protocol):
    """Reads beliefs off states and judges them; knows nothing of viewpoints and budgets.

    class_names: what the belief distinguishes. potential_names: what `judge` computes; the first
    is the default reward. headline: the potential that a person wants to know of one scene.
    decodes_canvas: whether the belief says something of every canvas cell.
    """

    @property
    def potential_names(self) -> tuple[str, ...]: ...

    @property
    def headline(self) -> str: ...

    @property
    def decodes_canvas(self) -> bool: ...

    @property
    def model(self) -> TaskModel: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def belief(self, state: RecurrentState) -> Tensor:
        """The task's reading of B states: float32 [B, classes, ...]."""
        ...

    def targets(self, scenes: Sequence[Scene], *, device: torch.device) -> Tensor:
        """Returns what the beliefs are judged against, [B, ...]; raises ValueError where scenes
        have no such thing."""
        ...

    def judge(self, belief: Tensor, targets: Tensor) -> Verdict: ...

    def entropy_map(self, belief: Tensor) -> Tensor:
        """Entropy of the belief at each canvas cell, nats, float32 [B, G, G]; raises
        NotImplementedError where the task decodes no canvas."""
        ...
