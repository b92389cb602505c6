"""Work is counted as published (reference notes, section 5.3)."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.flops import (
    attention_flops,
    classification_flops,
    glimpse_flops,
    probe_flops,
)
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation

# A glimpse of 8 x 8 patches, by canvas grid.
GLIMPSE = {
    8: 13_801_724_160, 16: 14_136_744_192, 32: 15_476_824_320, 64: 20_837_144_832,
    128: 42_278_426_880,
}  # fmt: skip
ATTENTION = {
    8: (246_611_968, 582_156_288),
    16: (302_448_640, 1_443_299_328),
    32: (525_795_328, 4_887_871_488),
    64: (1_419_182_080, 18_666_160_128),
    128: (4_992_729_088, 73_779_314_688),
}
# Glimpse and segmentation probe of 150 classes, at a canvas of 32.
ABLATIONS: dict[str, tuple[dict[str, Any], int]] = {
    "baseline": ({}, 15_791_397_120),
    "dcan256": ({"canvas_num_heads": 2}, 13_189_388_544),
    "qkvo256": ({"canvas_num_heads": 2, "canvas_projections": "qkvo"}, 14_825_167_104),
    "qkvo384": ({"canvas_num_heads": 3, "canvas_projections": "qkvo"}, 17_303_558_400),
    "no_reads": ({"enable_reads": False}, 14_214_011_136),
    "rw_stride_6": ({"rw_stride": 6}, 13_688_215_808),
    "vits": ({"backbone_name": "vits16"}, 5_945_150_592),
    "no_vpe": ({"enable_vpe": False}, 15_571_894_272),
}


@pytest.mark.parametrize("grid", GLIMPSE)
def test_flops_of_a_glimpse(grid: int) -> None:
    assert glimpse_flops(CanViTConfig(), glimpse_grid=8, canvas_grid=grid) == GLIMPSE[grid]


@pytest.mark.parametrize("grid", ATTENTION)
def test_flops_of_canvas_attention(grid: int) -> None:
    sizes = {"glimpse_tokens": 71, "canvas_tokens": 16 + grid**2}
    asymmetric, qkvo = CanViTConfig(), CanViTConfig(canvas_projections="qkvo")
    found = attention_flops(asymmetric, **sizes), attention_flops(qkvo, **sizes)
    assert found == ATTENTION[grid]


@pytest.mark.parametrize("name", ABLATIONS)
def test_flops_of_the_ablations(name: str) -> None:
    changes, total = ABLATIONS[name]
    config = CanViTConfig(**changes)
    probe = probe_flops(config, canvas_grid=32, outputs=150)
    assert glimpse_flops(config, glimpse_grid=8, canvas_grid=32) + probe == total


def test_flops_of_the_heads_are_those_that_torch_counts(
    mini_checkpoint: str, emoji_probe: str
) -> None:
    def counted(model: Any) -> int:
        state = model.init_state(batch_size=1, canvas_grid_size=8)
        with FlopCounterMode(display=False) as counter:
            model.logits(state)
        return counter.get_total_flops()

    named = CanViTForImageClassification.from_pretrained(mini_checkpoint)
    expected = classification_flops(named.canvit.config, num_classes=16)
    assert expected == named.readout_flops(canvas_grid_size=8) == counted(named)
    labelled = CanViTForSemanticSegmentation.from_pretrained_with_probe(
        mini_checkpoint, emoji_probe
    )
    assert labelled.readout_flops(canvas_grid_size=8) == counted(labelled)
