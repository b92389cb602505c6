"""Labelling every part of the scene: what a map of class logits is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from canvit_gym.drawing import Panel
from canvit_gym.errors import require_parts
from canvit_gym.model.recurrent import RecurrentModel, State
from canvit_gym.scenes.base import IGNORE, Scene
from canvit_gym.tasks.base import Description, Judged, Metric, Verdict
from canvit_gym.tasks.places import enlarged, reduced, scenes_at_once
from canvit_gym.tasks.segmentation.pictures import describe_masks, mask_panels

Potential = Literal["log_likelihood", "pixel_accuracy", "mean_iou", "neg_entropy"]
POTENTIALS: tuple[Potential, ...] = get_args(Potential)


class Segmenter(RecurrentModel, Protocol):
    """A recurrent model that labels every cell of its map."""

    @property
    def num_classes(self) -> int: ...

    def logits(self, state: State) -> Tensor:
        """Class logits of the cells, float32 [B, num_classes, G, G]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Scores maps of class logits against masks of `label_size_px` x `label_size_px`.

    Masks are reduced to that size by nearest neighbour, logits enlarged to it bilinearly, as the
    reference protocol does at the scene's own size, 512 px.
    Pixels with the value `scenes.base.IGNORE` never count.

    Raises ValueError where the probe has another number of classes than there are names.
    """

    model: Segmenter
    class_names: tuple[str, ...]
    label_size_px: int

    potential_names = POTENTIALS
    headline = "mean_iou"
    confidence = "neg_entropy"
    metrics = (
        Metric(name="mean_iou", title="mean IoU", values="intersection", per="union"),
        Metric(name="pixel_accuracy", title="pixel accuracy", values="pixel_accuracy"),
    )
    success = None
    goal = "says what is where"
    answer_title = "mean IoU"

    def __post_init__(self) -> None:
        parts, protocol = ("num_classes", "logits"), "canvit_gym.tasks.segmentation.Segmenter"
        require_parts("The model of a segmentation", self.model, parts, protocol=protocol)
        if self.model.num_classes != len(self.class_names):
            raise ValueError(
                f"The probe names {self.model.num_classes} classes but the scenes have "
                f"{len(self.class_names)}; choose a probe that was trained on these classes."
            )
        if type(self.label_size_px) is not int or self.label_size_px < 1:
            raise ValueError(
                f"label_size_px is {self.label_size_px!r}; give the side at which masks are "
                "compared, such as the scene's own."
            )

    @property
    def scoring(self) -> Mapping[str, Any]:
        """The side at which masks are compared."""
        return {"label_size_px": self.label_size_px}

    def belief(self, state: State) -> Tensor:
        """Class logits of the canvas cells: float32 [B, classes, G, G]."""
        return self.model.logits(state)

    def targets(self, scenes: Sequence[Scene], *, device: torch.device) -> Tensor:
        """Class ids or IGNORE: uint8 [B, label_size_px, label_size_px]."""
        return torch.from_numpy(np.stack([self._mask(scene) for scene in scenes])).to(device)

    def judge(self, belief: Tensor, targets: Tensor) -> Verdict:
        """Potentials and outcome of beliefs [B, classes, G, G] about masks uint8 [B, S, S].

        Potentials, each over the pixels that are not ignored (a scene of ignored pixels only gets
        0): log_likelihood: mean log p(class), nats. pixel_accuracy: share of right ones, in
        [0, 1]. mean_iou: intersection over union, averaged over the classes that the scene's mask
        or its prediction has, in [0, 1]. neg_entropy: sum of p log p, nats, averaged over all
        canvas cells; needs no mask.

        Outcome: intersection and union, int64 [B, classes], in pixels. Summed over scenes they
        give the dataset's IoU.
        """
        size = self.label_size_px
        chunk = scenes_at_once(belief, size_px=size)
        parts = [
            _compare(b, t, size_px=size)
            for b, t in zip(belief.split(chunk), targets.split(chunk), strict=True)
        ]
        log_likelihood = torch.cat([part[0] for part in parts])
        intersection = torch.cat([part[1] for part in parts])
        union = torch.cat([part[2] for part in parts])
        pixels = (targets != IGNORE).sum(dim=(1, 2)).clamp(min=1)
        present = union > 0
        iou = (intersection / union.clamp(min=1)).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        return Verdict(
            potentials={
                "log_likelihood": log_likelihood / pixels,
                "pixel_accuracy": intersection.sum(dim=1) / pixels,
                "mean_iou": iou,
                "neg_entropy": -self.entropy_map(belief).mean(dim=(1, 2)),
            },
            outcome={"intersection": intersection, "union": union},
        )

    @property
    def entropy_range(self) -> tuple[float, float]:
        """From 0 to that of a uniform distribution over the classes, nats."""
        return 0.0, math.log(max(len(self.class_names), 2))

    def entropy_map(self, belief: Tensor) -> Tensor:
        """Entropy of the belief at each canvas cell, nats: float32 [B, G, G]."""
        log_prob = belief.log_softmax(dim=1)
        return -(log_prob.exp() * log_prob).sum(dim=1)

    def probabilities(self, belief: Tensor) -> Tensor:
        """Probabilities of the classes of each pixel, as masks have them: float32 [B, classes, S,
        S]."""
        return enlarged(belief, size_px=self.label_size_px).softmax(dim=1)

    def panels(self, judged: Judged) -> list[Panel]:
        """Uncertainty, decoded and true mask, and what fills most of them."""
        return mask_panels(
            judged.belief[0],
            judged.targets[0],
            entropy=self.entropy_map(judged.belief)[0],
            highest=self.entropy_range[1],
            accuracy=float(judged.potentials["pixel_accuracy"][0]),
            iou=float(judged.potentials["mean_iou"][0]),
            class_names=self.class_names,
        )

    def describe(self, judged: Judged, *, with_truth: bool) -> Description:
        """How much is right, and a table of what fills most of the masks."""
        return describe_masks(
            judged.belief[0],
            judged.targets[0],
            with_truth=with_truth,
            accuracy=float(judged.potentials["pixel_accuracy"][0]),
            iou=float(judged.potentials["mean_iou"][0]),
            class_names=self.class_names,
        )

    def _mask(self, scene: Scene) -> np.ndarray:
        if scene.mask is None:
            raise ValueError(
                f"Scene {scene.name} has no mask, which segmentation is judged by; choose scenes "
                "with masks, such as an ADE20K folder."
            )
        return reduced(scene.mask, size_px=self.label_size_px)


def _compare(belief: Tensor, targets: Tensor, *, size_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compares logits [B, C, G, G] and masks [B, S, S]: the sum of log p(class) over labelled
    pixels [B], and intersections and unions int64 [B, C]."""
    count, num_classes = belief.shape[:2]
    logits = enlarged(belief, size_px=size_px)
    labelled = targets != IGNORE
    labels = targets.long().masked_fill(~labelled, 0)
    at_label = logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(dim=1)
    log_likelihood = (at_label * labelled).sum(dim=(1, 2))

    predictions = logits.argmax(dim=1)
    scene = torch.arange(count, device=belief.device)[:, None, None] * num_classes

    def areas(classes: Tensor, where: Tensor) -> Tensor:
        cells = torch.bincount((scene + classes)[where], minlength=count * num_classes)
        return cells.reshape(count, num_classes)

    intersection = areas(labels, labelled & (predictions == labels))
    union = areas(labels, labelled) + areas(predictions, labelled) - intersection
    return log_likelihood, intersection, union
