"""Descriptions of a scene after a glimpse: pictures, and what is believed in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canvit_gym import Episode, Rollout
from canvit_gym.envs.rendering import looking_panels
from canvit_gym.tasks.base import Description


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture of an episode, uint8 [H, W, 3]."""

    title: str
    alt: str
    picture: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Step:
    """A description of what is known after a glimpse. reward: None for the first glimpse."""

    viewpoint: tuple[float, float, float]
    chosen: bool
    reward: float | None
    figures: tuple[Figure, ...]
    belief: Description


def describe_step(
    episode: Episode, *, rollout: Rollout, chosen: bool, reward: float | None
) -> Step:
    """episode: of one scene, after a glimpse."""
    row, col, scale = episode.history[0, int(episode.glimpses[0]) - 1].tolist()
    return Step(
        viewpoint=(row, col, scale),
        chosen=chosen,
        reward=reward,
        figures=draw_figures(episode, rollout=rollout),
        belief=rollout.task.describe(episode, with_truth=True),
    )


def draw_figures(
    episode: Episode, *, rollout: Rollout, with_truth: bool = True
) -> tuple[Figure, ...]:
    """The panels of a rendered frame that are pictures; what is text there is text here. Of one
    scene, the scene itself first; those that show the truth only where it is asked for."""
    t = int(episode.glimpses[0]) - 1
    now = f"after glimpse {t}" if t >= 0 else "before the first glimpse"
    scene, glimpse, canvas = looking_panels(episode, rollout=rollout)
    of_task = [panel for panel in rollout.task.panels(episode) if panel.title]
    changing = [canvas, *(panel for panel in of_task if not panel.shows_truth)]
    drawn = [(panel, panel.alt) for panel in (scene, glimpse)]
    drawn += [(panel, f"{panel.alt} {now}") for panel in changing]
    if with_truth:
        drawn += [(panel, panel.alt) for panel in of_task if panel.shows_truth]
    return tuple(
        Figure(title=panel.title, alt=alt, picture=np.array(panel.image)) for panel, alt in drawn
    )
