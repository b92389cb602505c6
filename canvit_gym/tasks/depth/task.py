"""Telling how far away everything is: what a map of log depths is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from canvit_gym.drawing import Panel
from canvit_gym.errors import require_int, require_parts
from canvit_gym.model.recurrent import RecurrentModel, State
from canvit_gym.scenes.base import Scene
from canvit_gym.tasks.base import Description, Judged, Metric, Verdict
from canvit_gym.tasks.depth.pictures import depth_panels, describe_depth
from canvit_gym.tasks.places import enlarged, reduced, scenes_at_once

Potential = Literal[
    "neg_si_error", "neg_abs_rel", "explained", "delta1", "log_likelihood", "neg_entropy"
]
POTENTIALS: tuple[Potential, ...] = get_args(Potential)

CLOSE = math.log(1.25)
"""A depth is called right where it is off by less than this factor (Eigen et al., 2014)."""


_LEAST = 1e-6
"""A variance of log depth below which a scene is flat."""


class DepthReader(RecurrentModel, Protocol):
    """A recurrent model that tells of every cell of its map how far away it is.

    log_depths: of the bins, evenly spaced, ascending.
    """

    @property
    def log_depths(self) -> tuple[float, ...]: ...

    def logits(self, state: State) -> Tensor:
        """Logits of the bins, float32 [B, bins, G, G]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Scores distributions over log depth against depths at `label_size_px` x `label_size_px`.

    What is believed of a place is the mean of its log depth. Depths are reduced to that size by
    nearest neighbour, logits enlarged to it bilinearly. Pixels whose depth is NaN never count; a
    scene of such pixels only gets 0.

    Raises ValueError where `label_size_px` is no positive integer.
    """

    model: DepthReader
    label_size_px: int

    potential_names = POTENTIALS
    headline = "explained"
    confidence = "neg_entropy"
    metrics = (
        Metric(name="explained", title="explained variance", values="gained", per="variance"),
        Metric(name="delta1", title="share of right depths", values="delta1"),
        Metric(name="si_error", title="scale-invariant error", values="si_error"),
        Metric(name="abs_rel", title="relative error", values="abs_rel"),
    )
    success = None
    class_names = ()
    goal = "tells how far away everything is"
    answer_title = "explained variance"

    def __post_init__(self) -> None:
        parts, protocol = ("log_depths", "logits"), "canvit_gym.tasks.depth.DepthReader"
        require_parts("The model of depth", self.model, parts, protocol=protocol)
        require_int("label_size_px", self.label_size_px, at_least=1, what="a side in pixels")

    @property
    def scoring(self) -> Mapping[str, Any]:
        """The side at which depths are compared."""
        return {"label_size_px": self.label_size_px}

    def belief(self, state: State) -> Tensor:
        """Logits of the log depths of the canvas cells: float32 [B, bins, G, G]."""
        return self.model.logits(state)

    def targets(self, scenes: Sequence[Scene], *, device: torch.device) -> Tensor:
        """Log depths, NaN where unknown: float32 [B, label_size_px, label_size_px]."""
        depths = np.stack([self._depth(scene) for scene in scenes])
        return torch.from_numpy(depths).to(device).log()

    def judge(self, belief: Tensor, targets: Tensor) -> Verdict:
        """Potentials and outcome of beliefs [B, bins, G, G] about log depths [B, S, S].

        With d the difference of believed and true log depth, over the pixels whose depth is known:
        neg_si_error: minus the standard deviation of d, so that a factor common to the whole scene
        is forgiven (Eigen et al., 2014, with lambda 1). neg_abs_rel: minus the mean of |e^d - 1|.
        explained: 1 less the variance of d over that of the true log depth, at most 1, 0 where the
        truth has none; a factor is forgiven, too. delta1: share of the pixels with |d| below log
        1.25, in [0, 1]. log_likelihood: mean log probability of the bin that is nearest to the
        truth, nats. neg_entropy: sum of p log p, nats, averaged over all canvas cells; needs no
        depth.

        Outcome: si_error and abs_rel, the errors themselves, float32 [B]. variance: of the true log
        depth, and gained: how much smaller that of d is, float32 [B, 1]. Summed over scenes they
        give the data set's explained variance.
        """
        known, error = ~targets.isnan(), self.log_depth(belief) - targets
        left, variation = (
            _mean(_squares(values, known=known), known=known) for values in (error, targets)
        )
        gained = (variation - left).where(variation > _LEAST, 0)
        si_error = left.sqrt()
        abs_rel = _mean(error.expm1().abs(), known=known)
        log_probs = self._log_probs(belief, targets)
        return Verdict(
            potentials={
                "neg_si_error": -si_error,
                "neg_abs_rel": -abs_rel,
                "explained": gained / variation.clamp(min=_LEAST),
                "delta1": _mean((error.abs() < CLOSE).float(), known=known),
                "log_likelihood": _mean(log_probs, known=known),
                "neg_entropy": -self.entropy_map(belief).mean(dim=(1, 2)),
            },
            outcome={
                "si_error": si_error,
                "abs_rel": abs_rel,
                "gained": gained[:, None],
                "variance": variation[:, None],
            },
        )

    def log_depth(self, belief: Tensor) -> Tensor:
        """The log depth that is believed of each pixel: float32 [B, S, S]."""
        bins = torch.tensor(self.model.log_depths, device=belief.device)

        def decoded(logits: Tensor) -> Tensor:
            return torch.einsum("bkij,k->bij", logits.softmax(dim=1), bins)

        size = self.label_size_px
        chunks = belief.split(scenes_at_once(belief, size_px=size))
        return torch.cat([decoded(enlarged(part, size_px=size)) for part in chunks])

    def place_scores(self, belief: Tensor, targets: Tensor) -> Tensor:
        """Minus the square of d less its mean over the scene, at each pixel: what the scale-
        invariant error and the explained variance are made of, float32 [B, S, S]."""
        known, error = ~targets.isnan(), self.log_depth(belief) - targets
        return -_squares(error, known=known)

    def _log_probs(self, belief: Tensor, targets: Tensor) -> Tensor:
        """Log probability of the bin that is nearest to the true log depth at each pixel, nats, 0
        where it is unknown: float32 [B, S, S]."""
        size = self.label_size_px
        chunk = scenes_at_once(belief, size_px=size)
        parts = [
            log_prob(enlarged(part, size_px=size), true, log_depths=self.model.log_depths)
            for part, true in zip(belief.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.cat(parts)

    @property
    def entropy_range(self) -> tuple[float, float]:
        """From 0 to that of a uniform distribution over the bins, nats."""
        return 0.0, math.log(len(self.model.log_depths))

    def entropy_map(self, belief: Tensor) -> Tensor:
        """Entropy of the belief at each canvas cell, nats: float32 [B, G, G]."""
        log_probs = belief.log_softmax(dim=1)
        return -(log_probs.exp() * log_probs).sum(dim=1)

    def panels(self, judged: Judged) -> list[Panel]:
        """Doubt, believed and true depth, where they differ, and how much."""
        return depth_panels(
            self.log_depth(judged.belief)[0],
            judged.targets[0],
            doubt=self.entropy_map(judged.belief)[0] / self.entropy_range[1],
            log_range=(self.model.log_depths[0], self.model.log_depths[-1]),
            figures=_figures(judged),
        )

    def describe(self, judged: Judged, *, with_truth: bool) -> Description:
        """The share of right depths and the errors, or what is nearest and farthest."""
        believed = self.log_depth(judged.belief)[0]
        truth = judged.targets[0] if with_truth else None
        return describe_depth(believed, truth, figures=_figures(judged))

    def _depth(self, scene: Scene) -> np.ndarray:
        if scene.depth is None:
            raise ValueError(
                f"Scene {scene.name} has no depth, which this task is judged by; choose scenes "
                "with depth, such as a folder with rgb and depth, or EmojiScenes with depth=True."
            )
        return reduced(scene.depth, size_px=self.label_size_px)


def _mean(values: Tensor, *, known: Tensor) -> Tensor:
    """Means over the known pixels of [B, S, S], 0 where none is: [B]."""
    return values.where(known, 0).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)


def _squares(values: Tensor, *, known: Tensor) -> Tensor:
    """Squared distances from the scene's mean, 0 at unknown pixels: [B, S, S]."""
    centred = values - _mean(values, known=known)[:, None, None]
    return centred.square().where(known, 0)


def log_prob(logits: Tensor, log_depth: Tensor, *, log_depths: Sequence[float]) -> Tensor:
    """Log probability, under logits [B, bins, S, S], of the bin that is nearest to log depths [B,
    S, S], nats, 0 where they are NaN: float32 [B, S, S]. Differentiable in the logits."""
    low, high = log_depths[0], log_depths[-1]
    known = ~log_depth.isnan()
    share = (log_depth.where(known, low) - low) / (high - low)
    nearest = (share * (len(log_depths) - 1)).round().long().clamp(0, len(log_depths) - 1)
    at_truth = logits.log_softmax(dim=1).gather(1, nearest[:, None])[:, 0]
    return at_truth.where(known, 0)


def _figures(judged: Judged) -> tuple[float, float, float]:
    """Explained variance, scale-invariant and relative error of one scene."""
    return (
        float(judged.potentials["explained"][0]),
        float(judged.outcome["si_error"][0]),
        float(judged.outcome["abs_rel"][0]),
    )
