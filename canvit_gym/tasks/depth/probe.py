"""A probe that reads from each canvas cell how far away it is, and how sure that is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from canvit_gym.model.canvas_probe import CanvasProbe, CanViTWithProbe
from canvit_gym.model.canvit import RecurrentState


class DepthProbe(CanvasProbe):
    """A probe of distributions over `num_bins` log depths, evenly spaced from `log_depth_min` to
    `log_depth_max`, as linear probes of depth are usual (DINOv2, section 7.4).

    It reads the features of each cell, and where the cell is, because ground tends to be near at
    the bottom of a scene, which features do not say. Raises ValueError where an argument is of
    another type or out of range.
    """

    config_fields = (
        "embed_dim", "num_bins", "dropout", "use_ln", "log_depth_min", "log_depth_max",
    )  # fmt: skip

    def __init__(
        self,
        *,
        embed_dim: int,
        num_bins: int,
        dropout: float,
        use_ln: bool,
        log_depth_min: float,
        log_depth_max: float,
    ) -> None:
        if type(num_bins) is not int or num_bins < 2:
            raise ValueError(f"num_bins is {num_bins!r}; give an integer of at least 2.")
        for name, value in (("log_depth_min", log_depth_min), ("log_depth_max", log_depth_max)):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; give a number.")
        if log_depth_min >= log_depth_max:
            raise ValueError(
                f"log_depth_min is {log_depth_min} and log_depth_max {log_depth_max}; give a "
                "larger maximum."
            )
        super().__init__(embed_dim=embed_dim, outputs=num_bins, dropout=dropout, use_ln=use_ln)
        self.num_bins = num_bins
        self.log_depth_min, self.log_depth_max = float(log_depth_min), float(log_depth_max)
        self.surface = nn.Linear(5, num_bins, bias=False)
        nn.init.zeros_(self.surface.weight)

    @property
    def log_depths(self) -> tuple[float, ...]:
        """The log depths of the bins, ascending."""
        step = (self.log_depth_max - self.log_depth_min) / (self.num_bins - 1)
        return tuple(self.log_depth_min + step * i for i in range(self.num_bins))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the bins, float32 [B, num_bins, H, W], of features [B, H, W, embed_dim]. Raises
        ValueError where the features have another shape."""
        logits = super().forward(features)
        places = _quadratic(*logits.shape[-2:], device=logits.device)
        with torch.autocast(features.device.type, enabled=False):
            return logits + self.surface(places).permute(2, 0, 1)


def _quadratic(height: int, width: int, *, device: torch.device) -> Tensor:
    """Row, column and their products at the middle of each cell, in [-1, 1]: float32 [H, W, 5]."""
    row = ((2 * torch.arange(height, device=device) + 1) / height - 1)[:, None].expand(-1, width)
    col = ((2 * torch.arange(width, device=device) + 1) / width - 1).expand(height, -1)
    return torch.stack((row, col, row * row, row * col, col * col), dim=-1)


class CanViTForDepth(CanViTWithProbe[DepthProbe]):
    """A core and a depth probe of its canvas."""

    probe_class = DepthProbe

    @property
    def log_depths(self) -> tuple[float, ...]:
        return self.probe.log_depths

    def logits(self, state: RecurrentState) -> Tensor:
        """Logits of the bins of every canvas cell, float32 [B, num_bins, G, G]."""
        return self.read_canvas(state)
