"""Official checkpoints on the Hugging Face hub, by what they are for. Imports nothing."""

FLAGSHIP = "canvit/canvitb16-add-vpe-pretrain-g128px-s512px-in21k-dv3b16-2026-02-02"
"""CanViT-B pretrained on ImageNet-21k from DINOv3 ViT-B: the paper's model."""

IN1K_FINETUNED = "canvit/canvitb16-add-vpe-finetune-g128px-s512px-in1k-2026-04-06"
"""The flagship fine-tuned to name the 1,000 classes of ImageNet."""

AUTO, OFFICIAL = "auto", "official"
"""Backbones of the ImageNet environment: the official checkpoint where it can be had, else the
embedded one; and the official one alone."""

MINI_IN1K = "mini-in1k"
"""The embedded CanViT that names the 1,000 classes of ImageNet, a little."""

IN1K_PROBE = "canvit/dinov3-vitb16-lvd1689m-in1k-512x512-linear-clf-probe"
"""Linear probe of the flagship's teacher: 1,000 ImageNet classes without fine-tuning."""


def ade20k_probe(canvas_grid_size: int) -> str:
    """Probe of the flagship's canvas of that size: the 150 classes of ADE20K, scenes of 512 px.

    Published for grids of 8, 9, 10, 12, 16, 24, 32 and 64 cells a side.
    """
    return f"canvit/probe-ade20k-40k-s512-c{canvas_grid_size}-in21k"
