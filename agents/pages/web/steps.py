"""Descriptions of a scene after a glimpse: pictures, and what is believed in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from canvit_gym import Episode, Rollout
from canvit_gym.envs.palette import IGNORED, class_colours
from canvit_gym.envs.rendering import looking_panels, mask_panels
from canvit_gym.scenes.base import IGNORE

_ROWS = 6  # classes that are named


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of an episode, uint8 [H, W, 3]."""

    title: str
    alt: str
    picture: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Belief:
    """The belief about one class: its probability, or what it fills of the decoded mask; `true`
    is what it fills of the true mask. colour: of masks."""

    name: str
    share: float
    is_label: bool = False
    true: float | None = None
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A description of what is known after a glimpse. verdict: a sentence. reward: None for the
    first glimpse."""

    viewpoint: tuple[float, float, float]
    chosen: bool
    verdict: str
    reward: float | None
    panels: tuple[Panel, ...]
    beliefs: tuple[Belief, ...]


def describe_step(
    episode: Episode, *, rollout: Rollout, chosen: bool, reward: float | None
) -> Step:
    """episode: of one scene, after a glimpse."""
    row, col, scale = episode.history[0, int(episode.glimpses[0]) - 1].tolist()
    verdict, beliefs = describe_belief(episode, rollout=rollout)
    return Step(
        viewpoint=(row, col, scale),
        chosen=chosen,
        verdict=verdict,
        reward=reward,
        panels=draw_panels(episode, rollout=rollout),
        beliefs=beliefs,
    )


def describe_belief(
    episode: Episode, *, rollout: Rollout, with_truth: bool = True
) -> tuple[str, tuple[Belief, ...]]:
    """Describes what is believed of one scene, as a sentence and class by class; without the truth,
    nothing in it depends on the label or the true mask."""
    describe = _of_masks if rollout.task.decodes_canvas else _of_label
    verdict, beliefs = describe(episode, rollout, with_truth)
    return verdict, tuple(beliefs)


def draw_panels(
    episode: Episode, *, rollout: Rollout, with_truth: bool = True
) -> tuple[Panel, ...]:
    """The panels of a rendered frame that are pictures; what is text there is text here. Of one
    scene, the scene itself first; the true mask last, where there is one and it is asked for."""
    t = int(episode.glimpses[0]) - 1
    boxes = "the box of glimpse 0" if t == 0 else f"the boxes of glimpses 0 to {t}"
    now = f"after glimpse {t}" if t >= 0 else "before the first glimpse"
    drawn = looking_panels(episode, rollout=rollout)
    texts = [
        ("scene", f"The scene with {boxes}" if t >= 0 else "The scene"),
        ("glimpse", f"What CanViT sees at glimpse {t}" if t >= 0 else "No glimpse yet"),
        (
            "canvas (PCA)",
            f"The canvas {now}: three principal components of the first one as colours",
        ),
    ]
    if rollout.task.decodes_canvas:
        masks = mask_panels(episode, rollout=rollout)
        drawn += masks if with_truth else masks[:-1]
        texts += [
            ("entropy", f"Where the segmentation is uncertain {now}, bright for more"),
            ("decoded mask", f"The segmentation decoded {now}"),
            ("true mask", "The true segmentation"),
        ]
    return tuple(
        Panel(title=title, alt=alt, picture=np.array(panel.image))
        for (title, alt), panel in zip(texts, drawn, strict=False)
    )


def _of_label(episode: Episode, rollout: Rollout, with_truth: bool) -> tuple[str, list[Belief]]:
    names = rollout.task.class_names
    probabilities = episode.belief[0].exp().cpu()
    label = int(episode.targets[0]) if with_truth else None
    shown = probabilities.argsort(descending=True)[:_ROWS].tolist()
    first = shown[0]
    verdict = f"CanViT says {names[first]}, {float(probabilities[first]):.0%}"
    if label is not None:
        verdict += ": right" if first == label else f": wrong, it is {names[label]}"
        if label not in shown:
            shown[-1] = label
    beliefs = [
        Belief(name=names[i], share=float(probabilities[i]), is_label=i == label) for i in shown
    ]
    return f"{verdict}.", beliefs


def _of_masks(episode: Episode, rollout: Rollout, with_truth: bool) -> tuple[str, list[Belief]]:
    names, true = rollout.task.class_names, episode.targets[0].cpu()
    logits = episode.belief
    if logits.shape[-1] != len(true):
        logits = F.interpolate(logits, size=tuple(true.shape), mode="bilinear")
    decoded = logits[0].argmax(dim=0).cpu()
    shares = [
        torch.bincount(mask.flatten(), minlength=256) / mask.numel()
        for mask in ((decoded, true) if with_truth else (decoded,))
    ]
    total = torch.stack(shares).sum(dim=0).numpy()
    colours = class_colours(len(names))
    beliefs = [
        Belief(
            name="no class" if i == IGNORE else names[i],
            share=float(shares[0][i]),
            true=float(shares[1][i]) if with_truth else None,
            colour=IGNORED if i == IGNORE else tuple(colours[i].tolist()),
        )
        for i in np.argsort(-total, kind="stable")[:_ROWS].tolist()
        if total[i]
    ]
    if not with_truth:
        most = beliefs[0]
        return f"CanViT sees {most.name} in {most.share:.0%} of the scene.", beliefs
    right, iou = (float(episode.potentials[name][0]) for name in ("pixel_accuracy", "mean_iou"))
    return f"{right:.0%} of the pixels are right, mean IoU {iou:.2f}.", beliefs
