"""The protocol of tasks: a belief read from the state, how good that belief is, and all else that
is particular to what is asked.

No other room asks which task it is dealing with. What only some tasks can do is a protocol of its
own (`HasEntropyMap`, `LabelsPlaces`, `ScoresPlaces`), which whoever needs it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from canvit_gym.drawing import Panel
from canvit_gym.errors import require_parts
from canvit_gym.model.recurrent import RecurrentModel, State, require_model
from canvit_gym.scenes.base import Scene


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good B beliefs are.

    potentials: float32 [B] by name; the reward is a difference of one of them.
    outcome: what infos and evaluations report beside them, [B, ...] by name.
    """

    potentials: dict[str, Tensor]
    outcome: dict[str, Tensor]


class Judged(Protocol):
    """A belief and its verdict, of B scenes, as episodes have them."""

    @property
    def belief(self) -> Tensor: ...

    @property
    def targets(self) -> Tensor: ...

    @property
    def potentials(self) -> dict[str, Tensor]: ...

    @property
    def outcome(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good beliefs about many scenes are.

    name: its key in files. title: what people read. values: the outcome or potential that it is
    made of, its mean over scenes; or, with `per`, the ratio of the sums over scenes of both, which
    are [B, K], averaged over those of the K entries whose sum below is not zero.
    """

    name: str
    title: str
    values: str
    per: str | None = None

    def parts_of(self, judged: Judged) -> tuple[Tensor, Tensor]:
        """What is summed over scenes, and what by: float64 [B, K] each."""
        known = {**judged.potentials, **judged.outcome}
        values = known[self.values].double()
        if self.per is None:
            return values[:, None], torch.ones_like(values)[:, None]
        return values, known[self.per].double()


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table that describes a belief.

    numbers: one for each column of the table. bar: a share 0 .. 1 that is drawn, or None. colour:
    what it has in the panels, or None. marked: whether it is the true answer.
    """

    name: str
    numbers: tuple[float, ...]
    bar: float | None = None
    colour: tuple[int, int, int] | None = None
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Description:
    """A belief about one scene in words.

    verdict: a sentence. head: titles of the table's columns, that of the names first. lines: of the
    table. percent: whether its numbers are shares. answer, is_right: what is said of the scene in a
    few words, and whether that is right; "" and None where the headline potential says it better.
    """

    verdict: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    percent: bool
    answer: str = ""
    is_right: bool | None = None


class Task(Protocol):
    """Reads beliefs off states and judges them; knows nothing of viewpoints and budgets.

    potential_names: what `judge` computes; the first is the default reward. headline: the potential
    that a person wants to know of one scene. confidence: the potential that says how sure a belief
    is, without the targets. metrics: over a data set; by the first, of which more is better,
    policies are compared. success: the outcome, bool [B], that says whether a scene is solved, or
    None. class_names: what the belief distinguishes; () where that is not classes. goal: what
    CanViT does here, as in "it names what the scene shows". answer_title: the title of
    `Description.answer`, or of the headline potential in its place. scoring: JSON values of
    settings that decide the verdict.
    """

    @property
    def potential_names(self) -> tuple[str, ...]: ...

    @property
    def headline(self) -> str: ...

    @property
    def confidence(self) -> str: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def success(self) -> str | None: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def goal(self) -> str: ...

    @property
    def answer_title(self) -> str: ...

    @property
    def scoring(self) -> Mapping[str, Any]: ...

    @property
    def model(self) -> RecurrentModel: ...

    def belief(self, state: State) -> Tensor:
        """The task's reading of B states: float32 [B, ...]."""
        ...

    def targets(self, scenes: Sequence[Scene], *, device: torch.device) -> Tensor:
        """Returns what the beliefs are judged against, [B, ...]; raises ValueError where scenes
        have no such thing."""
        ...

    def judge(self, belief: Tensor, targets: Tensor) -> Verdict: ...

    def panels(self, judged: Judged) -> list[Panel]:
        """Pictures of the belief about one scene, and of the truth."""
        ...

    def describe(self, judged: Judged, *, with_truth: bool) -> Description:
        """The belief about one scene in words; without the truth, nothing in it depends on the
        targets."""
        ...


@runtime_checkable
class HasEntropyMap(Protocol):
    """A task whose belief says something of every canvas cell."""

    @property
    def entropy_range(self) -> tuple[float, float]:
        """The lowest and the highest entropy of a cell, nats."""
        ...

    def entropy_map(self, belief: Tensor) -> Tensor:
        """Entropy of the belief at each canvas cell, nats: float32 [B, G, G]."""
        ...


@runtime_checkable
class LabelsPlaces(Protocol):
    """A task whose targets are masks [B, S, S] of class ids or IGNORE, and whose outcome holds
    intersection and union [B, classes]."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def probabilities(self, belief: Tensor) -> Tensor:
        """Probabilities of the classes of each pixel: float32 [B, classes, S, S]."""
        ...


@runtime_checkable
class ScoresPlaces(Protocol):
    """A task whose belief is as good as the mean over the places of a scene says."""

    def place_scores(self, belief: Tensor, targets: Tensor) -> Tensor:
        """How good the belief is about each place, 0 where the truth is unknown: float32 [B, S,
        S]."""
        ...


def require_task(task: Any) -> None:
    """Raise ValueError, in one sentence that says what is missing, unless `task` fulfils `Task` and
    its model `RecurrentModel`."""
    parts = (
        "potential_names", "headline", "confidence", "metrics", "success", "class_names", "goal",
        "answer_title", "scoring", "model", "belief", "targets", "judge", "panels", "describe",
    )  # fmt: skip
    require_parts("The task", task, parts, protocol="canvit_gym.tasks.base.Task")
    require_model(task.model)
