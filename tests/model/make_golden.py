"""What the reference implementation answers on small models, kept for where it is not installed.

    pip install --no-deps canvit-pytorch==0.2.1 canvit-core==0.2.1
    python tests/model/make_golden.py

Weights and glimpses are hashes of their names and positions, exact on every machine, so only
outputs are stored. Also the vocabulary of the parity tests: variants, weights, episodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden" / "reference.safetensors"

_SMALL: dict[str, Any] = {
    "backbone_name": "mini8",
    "canvas_num_heads": 3,
    "canvas_head_dim": 16,
    "num_canvas_registers": 3,
    "num_backbone_registers": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    name: _SMALL | changes
    for name, changes in {
        "asymmetric": {},
        "qkvo": {"canvas_projections": "qkvo"},
        "no_reads": {"enable_reads": False},
        "no_vpe": {"enable_vpe": False},
        "no_backbone_registers": {"num_backbone_registers": 0},
        "no_canvas_registers": {"num_canvas_registers": 0},
        "stride_1": {"rw_stride": 1},
        "stride_6": {"rw_stride": 6},
        "bare": {
            "enable_vpe": False,
            "num_backbone_registers": 0,
            "num_canvas_registers": 0,
            "canvas_projections": "qkvo",
        },
    }.items()
}
PRETRAINING = {"teacher_dim": 20, "teacher_patch_grid": 4}
PROBE: dict[str, Any] = {"embed_dim": 48, "num_classes": 7, "dropout": 0.1, "use_ln": True}
TARGET_SIZE = (9, 14)  # (height, width) of upsampled logits
CANVAS_GRID, GLIMPSE_GRID, PATCH_PX, BATCH = 4, 3, 8, 2

# Three glimpses of two scenes, (row, col, scale) each: nothing symmetric, one leaves the scene.
VIEWPOINTS = (
    ((0.0, 0.0, 1.0), (0.25, -0.5, 0.5)),
    ((-0.5, 0.5, 0.5), (0.1, 0.2, 0.75)),
    ((0.3, -0.2, 0.25), (-0.7, 0.6, 0.45)),
)


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float32 in [-1, 1) from a name and each position: the top 24 bits of SplitMix64."""
    count = int(np.prod(shape, dtype=np.int64))
    x = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) >> np.uint64(40)
    return torch.from_numpy((x.astype(np.float64) / 2**23 - 1).astype(np.float32)).reshape(shape)


def fill(model: nn.Module) -> None:
    """Give every tensor of a model values that matter: no zero bias, no LayerScale near zero."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            last = name.rsplit(".", 1)[-1]
            if last == "fitted":
                tensor.fill_(True)
                continue
            u = uniform(name, tuple(tensor.shape))
            if last in ("gamma", "var", "running_var") or (last == "weight" and tensor.ndim == 1):
                u = 0.7 + 0.5 * u
            elif last == "weight":
                u = u * (3 / tensor[0].numel()) ** 0.5
            elif last == "bias":
                u = 0.3 * u
            tensor.copy_(u)


def looks(
    *,
    viewpoint_class: Callable[..., Any],
    glimpse_grid: int = GLIMPSE_GRID,
    patch_px: int = PATCH_PX,
) -> Iterator[tuple[Tensor, Any]]:
    """The three glimpses and their viewpoints."""
    for t, viewpoints in enumerate(VIEWPOINTS):
        side = glimpse_grid * patch_px
        glimpse = 1.7 * uniform(f"glimpse {t}", (BATCH, 3, side, side))
        numbers = torch.tensor(viewpoints)
        yield glimpse, viewpoint_class(centers=numbers[:, :2], scales=numbers[:, 2])


def episode(
    model: Any,
    *,
    viewpoint_class: Callable[..., Any],
    canvas_grid: int = CANVAS_GRID,
    glimpse_grid: int = GLIMPSE_GRID,
    patch_px: int = PATCH_PX,
) -> Iterator[tuple[Any, Tensor]]:
    """The model's output after each of the three glimpses, and the glimpse that led to it."""
    state = model.init_state(batch_size=BATCH, canvas_grid_size=canvas_grid)
    for glimpse, viewpoint in looks(
        viewpoint_class=viewpoint_class, glimpse_grid=glimpse_grid, patch_px=patch_px
    ):
        output = model.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint)
        yield output, glimpse
        state = output.state


def tensors_of(output: Any) -> dict[str, Tensor]:
    """Every tensor of an output, by name."""
    tensors = {
        "canvas": output.state.canvas,
        "recurrent_cls": output.state.recurrent_cls,
        "glimpse_patches": output.glimpse_patches,
    }
    return tensors if output.vpe is None else tensors | {"vpe": output.vpe}


@contextmanager
def small_backbone_in_reference() -> Iterator[None]:
    """The reference knows the published backbones only; lend it the small one."""
    from canvit_core.backbone import BACKBONES, ViTSpec

    BACKBONES["mini8"] = ViTSpec(  # type: ignore[index]
        embed_dim=128, num_heads=4, num_blocks=6, patch_size=8, layerscale_init=1.0
    )
    try:
        yield
    finally:
        del BACKBONES["mini8"]  # type: ignore[arg-type]


@torch.no_grad()
def main() -> None:
    from canvit_pytorch import (
        CanViT,
        CanViTConfig,
        CanViTForPretraining,
        CanViTForSemanticSegmentation,
        SegmentationProbe,
        Viewpoint,
    )

    golden: dict[str, Tensor] = {}
    with small_backbone_in_reference():
        for variant, config in VARIANTS.items():
            model = CanViTForPretraining(canvit_config=CanViTConfig(**config), **PRETRAINING).eval()
            fill(model)
            *_, (output, _) = episode(model, viewpoint_class=Viewpoint)
            tensors = tensors_of(output) | {
                "teacher_patches": model.predict_teacher_patches(output.state.canvas),
                "teacher_cls": model.predict_teacher_cls(output.state.recurrent_cls),
            }
            golden |= {f"{variant}.{name}": x.contiguous() for name, x in tensors.items()}

        segmenter = CanViTForSemanticSegmentation(
            canvit=CanViT(CanViTConfig(**VARIANTS["asymmetric"])), probe=SegmentationProbe(**PROBE)
        ).eval()
        fill(segmenter)
        state = segmenter.init_state(batch_size=BATCH, canvas_grid_size=CANVAS_GRID)
        for glimpse, viewpoint in looks(viewpoint_class=Viewpoint):
            upsampled, state = segmenter.predict(
                glimpse=glimpse, state=state, viewpoint=viewpoint, target_size=TARGET_SIZE
            )
        golden["segmentation.logits"] = segmenter.logits(state.canvas).contiguous()
        golden["segmentation.upsampled"] = upsampled.contiguous()
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(save(golden))


if __name__ == "__main__":
    main()
