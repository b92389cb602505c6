"""The protocol of models that look at a scene glimpse by glimpse, which `CanViT` fulfils.

Environments, tasks, policies and evaluation ask no more of a model than this, so another one needs
no change to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Protocol

from torch import Tensor, nn

from canvit_gym.errors import require_parts
from canvit_gym.geometry import Viewpoint

State = Any
"""What a model knows of B scenes: a frozen dataclass whose fields are tensors [B, ...], and whose
`state[index]` is the state of some of the scenes."""


class RecurrentModel(Protocol):
    """Keeps a map of the scene, G x G cells, and a vector of all of it, and updates both.

    map_dim, vector_dim: numbers of features of a cell, and of the vector.
    """

    @property
    def map_dim(self) -> int: ...

    @property
    def vector_dim(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def init_state(self, *, batch_size: int, canvas_grid_size: int) -> State:
        """Returns the state of B scenes before their first glimpse."""
        ...

    def take_in(
        self,
        *,
        glimpse: Tensor,
        state: State,
        viewpoint: Viewpoint,
        consume_state: bool = False,
    ) -> State:
        """Returns the state after a glimpse of each scene, float32 [B, 3, g, g], ImageNet-
        normalised. `consume_state` gives the given state up, whose memory may be used again."""
        ...

    def feature_map(self, state: State) -> Tensor:
        """Features of the cells, row-major, each cell's normalised to mean 0 and variance 1:
        float32 [B, G^2, map_dim]."""
        ...

    def feature_vector(self, state: State) -> Tensor:
        """Features of the whole scene, normalised likewise: float32 [B, vector_dim]."""
        ...

    def glimpse_flops(self, *, glimpse_size_px: int, canvas_grid_size: int) -> int:
        """FLOPs of taking in one glimpse of one scene, 2 for a multiply-add."""
        ...

    def readout_flops(self, *, canvas_grid_size: int) -> int:
        """FLOPs of what a task reads from the state of one scene."""
        ...


def require_model(model: Any) -> None:
    """Raise ValueError, in one sentence that says what is missing, unless `model` fulfils
    `RecurrentModel`."""
    parts = (
        "map_dim", "vector_dim", "parameters", "init_state", "take_in", "feature_map",
        "feature_vector", "glimpse_flops", "readout_flops",
    )  # fmt: skip
    require_parts("The task's model", model, parts, protocol="canvit_gym.model.recurrent")


def state_bytes(state: State) -> int:
    """Bytes of a state."""
    return sum(getattr(state, field.name).nbytes for field in fields(state))
