"""Learning rates over a run, as factors of their peak."""

from __future__ import annotations

import math


def warmup(step: int, *, steps: int, start: float) -> float:
    """Rises linearly from `start` in step 0 to 1 in step `steps`, and stays there."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def decay(step: int, *, steps: int, decay_steps: int) -> float:
    """1, then, over the last `decay_steps` of `steps`, falls linearly towards 0."""
    return min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0


def half_cosine(done: float) -> float:
    """Falls from 1 to 0 while `done`, the share that is over, goes from 0 to 1."""
    return (1 + math.cos(math.pi * done)) / 2
