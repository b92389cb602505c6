"""The last steps of many environments, to draw training batches from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Memory:
    """Holds what `add` was given the last `steps` times: tensors [num_envs, ...] by name."""

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self._rings: dict[str, Tensor] = {}
        self._added = 0

    def add(self, **values: Tensor) -> None:
        if not self._rings:
            self._rings = {k: v.new_empty(self.steps, *v.shape) for k, v in values.items()}
        for key, value in values.items():
            self._rings[key][self._added % self.steps] = value
        self._added += 1

    def draw(self, count: int, *, rng: np.random.Generator) -> dict[str, Tensor]:
        """`count` rows of the steps held, uniformly and with replacement, by name."""
        num_envs = len(next(iter(self._rings.values()))[0])
        steps = torch.from_numpy(rng.integers(min(self._added, self.steps), size=count))
        rows = torch.from_numpy(rng.integers(num_envs, size=count))
        return {key: ring[steps, rows] for key, ring in self._rings.items()}
