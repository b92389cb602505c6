"""How long work with a model will take here: said beforehand where it is more than a minute."""

from __future__ import annotations

import sys
import time

import torch
from tqdm import tqdm

from canvit_gym import Rollout, Scene, Viewpoint

_WORTH_SAYING_S = 60.0


def seconds_per_glimpse(rollout: Rollout, scene: Scene) -> float:
    """The time of one glimpse of one scene, measured once after a first one has warmed up."""
    episode = rollout.start([scene])
    centre = Viewpoint(centers=torch.zeros(1, 2), scales=torch.full((1,), 0.5))
    started = time.perf_counter()
    reached = rollout.look(episode, centre.to(rollout.device))
    float(next(iter(reached.potentials.values()))[0])  # waits for the device
    return time.perf_counter() - started


def say_duration(what: str, *, rollout: Rollout, scene: Scene, glimpses: int) -> None:
    """Print an upper estimate to stderr where so many glimpses take more than a minute: side by
    side they are faster."""
    seconds = glimpses * seconds_per_glimpse(rollout, scene)
    if seconds > _WORTH_SAYING_S:
        tqdm.write(f"{what}: at most {_in_words(seconds)} here.", file=sys.stderr)


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
