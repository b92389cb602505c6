"""The make of a CanViT: configuration values and the known backbones."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

BackboneName = Literal["vits16", "vitb16", "vitl16", "mini8"]
CanvasProjections = Literal["asymmetric", "qkvo"]


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Size of a ViT backbone. `layerscale` is the initial value of both LayerScale gammas."""

    dim: int
    num_heads: int
    num_blocks: int
    patch_size_px: int
    layerscale: float
    mlp_ratio: int = 4

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


BACKBONES: dict[str, BackboneSpec] = {
    "vits16": BackboneSpec(dim=384, num_heads=6, num_blocks=12, patch_size_px=16, layerscale=1e-5),
    "vitb16": BackboneSpec(dim=768, num_heads=12, num_blocks=12, patch_size_px=16, layerscale=1e-5),
    "vitl16": BackboneSpec(
        dim=1024, num_heads=16, num_blocks=24, patch_size_px=16, layerscale=1e-5
    ),
    # This project's embedded model. LayerScale starts at 1: at 1e-5 a short training never leaves
    # the identity.
    "mini8": BackboneSpec(dim=128, num_heads=4, num_blocks=6, patch_size_px=8, layerscale=1.0),
}


@dataclass(frozen=True, kw_only=True)
class CanViTConfig:
    """Architecture of a CanViT, field by field as in a published 0.2 `config.json`.

    Raises ValueError where a value is unknown or does not fit the others.
    """

    backbone_name: BackboneName = "vitb16"
    canvas_num_heads: int = 8
    canvas_head_dim: int = 128
    num_canvas_registers: int = 16
    num_backbone_registers: int = 5
    rw_stride: int = 2
    enable_reads: bool = True
    enable_vpe: bool = True
    canvas_projections: CanvasProjections = "asymmetric"

    def __post_init__(self) -> None:
        if self.backbone_name not in BACKBONES:
            raise ValueError(
                f"Unknown backbone_name {self.backbone_name!r}; known: {', '.join(BACKBONES)}."
            )
        if self.canvas_projections not in get_args(CanvasProjections):
            raise ValueError(
                f"Unknown canvas_projections {self.canvas_projections!r}; "
                f"known: {', '.join(get_args(CanvasProjections))}."
            )
        if self.canvas_head_dim % 4 or self.canvas_head_dim <= 0:
            raise ValueError(
                f"canvas_head_dim is {self.canvas_head_dim}; give a positive multiple of 4, "
                "which 2-D rotary embeddings need."
            )
        if self.canvas_num_heads < 1 or self.rw_stride < 1:
            raise ValueError(
                f"canvas_num_heads is {self.canvas_num_heads} and rw_stride {self.rw_stride}; "
                "both must be at least 1."
            )
        if self.num_canvas_registers < 0 or self.num_backbone_registers < 0:
            raise ValueError(
                f"num_canvas_registers is {self.num_canvas_registers} and num_backbone_registers "
                f"{self.num_backbone_registers}; neither may be negative."
            )

    @property
    def backbone(self) -> BackboneSpec:
        return BACKBONES[self.backbone_name]

    @property
    def canvas_dim(self) -> int:
        return self.canvas_num_heads * self.canvas_head_dim

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CanViTConfig:
        """From a `canvit_config` object; unknown or mistyped fields raise ValueError by name."""
        if not isinstance(values, dict):
            raise ValueError(f"canvit_config is {values!r}; give an object of fields.")
        known = {field.name: type(field.default) for field in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(
                f"canvit_config has unknown fields {', '.join(unknown)}; "
                f"known: {', '.join(sorted(known))}."
            )
        for name, value in values.items():
            if type(value) is not known[name]:
                raise ValueError(
                    f"canvit_config has {name} {value!r}; give a value of {known[name].__name__}."
                )
        return cls(**values)


@dataclass(frozen=True)
class ReadWriteSchedule:
    """After which backbone blocks the canvas is read and written (paper, section 3)."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @classmethod
    def of(cls, config: CanViTConfig) -> ReadWriteSchedule:
        last = config.backbone.num_blocks - 1
        stops = range(config.rw_stride - 1, last + 1, config.rw_stride)
        reads = tuple(stops[0::2]) if config.enable_reads else ()
        writes = tuple(stops[1::2])
        if not writes or writes[-1] != last:
            writes += (last,)  # what the last blocks saw must reach the canvas
        return cls(reads=reads, writes=writes)
