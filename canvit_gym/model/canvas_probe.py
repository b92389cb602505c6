"""A CanViT with a linear probe of its canvas: a reading of every cell.

Backbone and probe are two checkpoints, as published; there is none of the two together.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from canvit_gym.model.canvit import Core, RecurrentState
from canvit_gym.model.checkpoints import Checkpointed, load_model
from canvit_gym.model.flops import probe_flops
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining, HasCore


class CanvasProbe(Checkpointed):
    """Linear probe of spatial features: LayerNorm, channel dropout, BatchNorm, 1 x 1 convolution.

    dropout is a probability in [0, 1). use_ln=False is for features that are normalised already;
    the raw canvas is not. Raises ValueError where an argument is of another type or out of range.
    """

    def __init__(self, *, embed_dim: int, outputs: int, dropout: float, use_ln: bool) -> None:
        super().__init__()
        if type(embed_dim) is not int or embed_dim < 1:
            raise ValueError(f"embed_dim is {embed_dim!r}; give a positive integer.")
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}; give a number from 0 to below 1.")
        if type(use_ln) is not bool:
            raise ValueError(f"use_ln is {use_ln!r}; give true or false.")
        self.embed_dim, self.use_ln = embed_dim, use_ln
        self.ln: nn.Module = nn.LayerNorm(embed_dim) if use_ln else nn.Identity()
        self.drop = nn.Dropout2d(dropout)
        self.bn = nn.BatchNorm2d(embed_dim)
        self.conv = nn.Conv2d(embed_dim, outputs, kernel_size=1)
        # A normal distribution: its truncation at 2 is too far away to matter, and on the meta
        # device `normal_` spends seconds importing the compiler.
        nn.init.trunc_normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    @property
    def dropout(self) -> float:
        return self.drop.p

    def forward(self, features: Tensor) -> Tensor:
        """Float32 [B, outputs, H, W] of features [B, H, W, embed_dim].

        Raises ValueError where the features have another shape.
        """
        if features.ndim != 4 or features.shape[-1] != self.embed_dim:
            raise ValueError(
                f"The features have shape {list(features.shape)}; give "
                f"[batch, height, width, {self.embed_dim}]."
            )
        with torch.autocast(features.device.type, enabled=False):
            channels_first = self.ln(features.float()).permute(0, 3, 1, 2)
            return self.conv(self.bn(self.drop(channels_first)))


ProbeT = TypeVar("ProbeT", bound=CanvasProbe)


class CanViTWithProbe(HasCore, Generic[ProbeT]):
    """A core and a probe of its canvas, both kept as they are (shared, in their own modes).

    probe_class: what a checkpoint of the probe holds. Has no `from_pretrained`: use
    `from_pretrained_with_probe`, and save a trained probe by itself. Raises ValueError where the
    probe reads another width than the canvas has.
    """

    probe_class: ClassVar[type[CanvasProbe]]

    def __init__(self, *, canvit: Core, probe: ProbeT) -> None:
        super().__init__()
        _require_same_width(canvit, probe, backbone_name="this CanViT", probe_name="The probe")
        self.canvit, self.probe = canvit, probe
        self.training = canvit.training or probe.training  # nn.Module begins with True

    @classmethod
    def from_pretrained_with_probe(
        cls,
        backbone_name: str | Path,
        probe_name: str | Path,
        *,
        device: torch.device | str = "cpu",
    ) -> Self:
        """The core of a checkpoint and a probe of its canvas, in eval mode.

        The backbone is a CanViTForPretraining or a CanViTForImageClassification, whose heads are
        left out. Raises CheckpointNotFound, InvalidCheckpoint, or ValueError where their widths
        disagree.
        """
        backbone = load_model(
            (CanViTForPretraining, CanViTForImageClassification), backbone_name, device=device
        )
        probe = cls.probe_class.from_pretrained(probe_name, device=device)
        _require_same_width(
            backbone.canvit,
            probe,
            backbone_name=repr(str(backbone_name)),
            probe_name=f"The probe {str(probe_name)!r}",
        )
        return cls(canvit=backbone.canvit, probe=probe)  # type: ignore[arg-type]  # probe_class's

    def readout_flops(self, *, canvas_grid_size: int) -> int:
        """FLOPs of the probe's reading of one scene."""
        outputs = self.probe.conv.out_channels
        return probe_flops(self.canvit.config, canvas_grid=canvas_grid_size, outputs=outputs)

    def read_canvas(self, state: RecurrentState) -> Tensor:
        """The probe's reading of every canvas cell, float32 [B, outputs, G, G]."""
        grid_size = self.canvit.canvas_grid_size(state)
        patches = self.canvit.canvas_patches(state)
        return self.probe(patches.unflatten(1, (grid_size, grid_size)))


def _require_same_width(
    canvit: Core, probe: CanvasProbe, *, backbone_name: str, probe_name: str
) -> None:
    canvas_dim = canvit.config.canvas_dim
    if probe.embed_dim != canvas_dim:
        raise ValueError(
            f"{probe_name} reads features of width {probe.embed_dim}, but the canvas of "
            f"{backbone_name} has width {canvas_dim}; choose a probe that was trained on the "
            "canvas of this backbone."
        )
