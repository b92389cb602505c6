"""Naming the scene: what a belief about classes is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from canvit_gym.drawing import Panel
from canvit_gym.errors import require_parts
from canvit_gym.model.recurrent import RecurrentModel, State
from canvit_gym.scenes.base import Scene
from canvit_gym.tasks.base import Description, Judged, Metric, Verdict
from canvit_gym.tasks.classification.pictures import belief_panel, describe_belief

Potential = Literal["log_prob", "prob", "margin", "correct", "neg_entropy"]
POTENTIALS: tuple[Potential, ...] = get_args(Potential)

_TOP, _MANY_CLASSES = 5, 100
ACCURACY = Metric(name="accuracy", title="accuracy", values="correct")
_TOP5 = Metric(name="top5", title="top-5 accuracy", values="in_top5")


class Classifier(RecurrentModel, Protocol):
    """A recurrent model that names scenes."""

    @property
    def n_classes(self) -> int: ...

    def logits(self, state: State) -> Tensor:
        """Class logits, float32 [B, n_classes]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Scores beliefs about which of `class_names` a scene shows.

    Raises ValueError where the model has another number of classes than there are names.
    """

    model: Classifier
    class_names: tuple[str, ...]

    potential_names = POTENTIALS
    headline = "correct"
    confidence = "neg_entropy"
    success = "correct"
    goal = "names what the scene shows"
    answer_title = "CanViT says"
    scoring: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        parts, protocol = ("n_classes", "logits"), "canvit_gym.tasks.classification.Classifier"
        require_parts("The model of a classification", self.model, parts, protocol=protocol)
        if self.model.n_classes != len(self.class_names):
            raise ValueError(
                f"The backbone names {self.model.n_classes} classes but the scenes have "
                f"{len(self.class_names)}; choose a checkpoint that was trained on these classes."
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, and where there are at least 100 classes, as ImageNet's, top-5 accuracy."""
        return (ACCURACY, _TOP5) if self._has_top5 else (ACCURACY,)

    @property
    def _has_top5(self) -> bool:
        return len(self.class_names) >= _MANY_CLASSES

    def belief(self, state: State) -> Tensor:
        """Log-probabilities of the classes: float32 [B, classes]."""
        return self.model.logits(state).log_softmax(dim=1)

    def targets(self, scenes: Sequence[Scene], *, device: torch.device) -> Tensor:
        """Returns what the belief is scored against: labels, int64 [B]; raises ValueError where one
        is no index of `class_names`."""
        for scene in scenes:
            if not 0 <= scene.label < len(self.class_names):
                raise ValueError(
                    f"Scene {scene.name} has the label {scene.label}, which is none of the "
                    f"{len(self.class_names)} classes that it is to be named as; choose scenes "
                    "with labels."
                )
        return torch.tensor([scene.label for scene in scenes], device=device)

    def judge(self, belief: Tensor, targets: Tensor) -> Verdict:
        """Potentials and outcome of beliefs [B, classes] about labels int64 [B].

        Potentials: log_prob: log p(label), nats, at most 0. prob: p(label). margin: p(label) minus
        the best other class's p, in [-1, 1]. correct: 1 where the most probable class is the label,
        else 0. neg_entropy: sum of p log p, nats, at most 0; needs no label.

        Outcome: label and prediction, int64; correct, bool; with at least 100 classes in_top5,
        bool: whether fewer than five classes are more probable than the label.
        """
        prob = belief.exp()
        at_label = targets[:, None]
        label_prob = prob.gather(1, at_label)[:, 0]
        best_other = prob.scatter(1, at_label, -1.0).amax(dim=1)
        prediction = belief.argmax(dim=1)
        correct = prediction == targets
        outcome = {"label": targets, "prediction": prediction, "correct": correct}
        if self._has_top5:
            above = ~(belief <= belief.gather(1, at_label))  # NaN is above all
            outcome["in_top5"] = above.sum(dim=1) < _TOP
        return Verdict(
            potentials={
                "log_prob": belief.gather(1, at_label)[:, 0],
                "prob": label_prob,
                "margin": label_prob - best_other,
                "correct": correct.float(),
                "neg_entropy": (prob * belief).sum(dim=1),
            },
            outcome=outcome,
        )

    def panels(self, judged: Judged) -> list[Panel]:
        """The most probable classes as bars."""
        label = int(judged.targets[0])
        return [belief_panel(judged.belief[0], label=label, class_names=self.class_names)]

    def describe(self, judged: Judged, *, with_truth: bool) -> Description:
        """The most probable class, and a table of several."""
        label = int(judged.targets[0]) if with_truth else None
        return describe_belief(judged.belief[0], label=label, class_names=self.class_names)
