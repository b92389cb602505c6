"""Work of a glimpse: matrix products and convolutions, 2 for a multiply-add, as published counts do
(reference notes, section 5.3)."""

from __future__ import annotations

from canvit_gym.model.config import CanViTConfig, ReadWriteSchedule


def attention_flops(config: CanViTConfig, *, glimpse_tokens: int, canvas_tokens: int) -> int:
    """FLOPs of one canvas read, or one write: its projections and both products of attention."""
    dim, canvas_dim = config.backbone.dim, config.canvas_dim
    flops = 4 * glimpse_tokens * canvas_dim * (dim + canvas_tokens)
    if config.canvas_projections == "qkvo":
        flops += 4 * canvas_tokens * canvas_dim**2
    return flops


def glimpse_flops(config: CanViTConfig, *, glimpse_grid: int, canvas_grid: int) -> int:
    """FLOPs of one forward for one scene, without any head."""
    spec, schedule = config.backbone, ReadWriteSchedule.of(config)
    dim, patches = spec.dim, glimpse_grid**2
    tokens = config.enable_vpe + 1 + config.num_backbone_registers + patches
    block = (8 + 4 * spec.mlp_ratio) * tokens * dim**2 + 4 * tokens**2 * dim
    canvas = attention_flops(
        config,
        glimpse_tokens=tokens,
        canvas_tokens=config.num_canvas_registers + canvas_grid**2,
    )
    return (
        2 * patches * 3 * spec.patch_size_px**2 * dim
        + config.enable_vpe * 3 * dim
        + spec.num_blocks * block
        + (len(schedule.reads) + len(schedule.writes)) * canvas
    )


def classification_flops(config: CanViTConfig, *, num_classes: int) -> int:
    """FLOPs of reading class logits off the recurrent CLS of one scene."""
    return 2 * config.backbone.dim * num_classes


def probe_flops(config: CanViTConfig, *, canvas_grid: int, outputs: int) -> int:
    """FLOPs of a probe that reads so many numbers off every canvas cell of one scene."""
    return 2 * canvas_grid**2 * config.canvas_dim * outputs
