"""Architecture from configuration: schedules, published tensor tables, parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from canvit_gym.model.canvit import CanViT
from canvit_gym.model.config import CanViTConfig, ReadWriteSchedule
from canvit_gym.model.heads import (
    CanViTForImageClassification,
    CanViTForPretraining,
    CanViTWithHead,
)

D, C = 768, 1024


def norm(name: str, dim: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [dim], f"{name}.bias": [dim]}


def linear(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def published_core() -> dict[str, list[int]]:
    """Keys and shapes of the published CanViT-B core."""
    table = {
        "init_canvas_registers": [1, 16, C],
        "init_canvas_patch": [1, 1, C],
        "init_recurrent_cls": [1, 1, D],
        "backbone_registers": [1, 5, D],
        "backbone.patch_embed.proj.weight": [D, 3, 16, 16],
        "backbone.patch_embed.proj.bias": [D],
        "vpe.frequencies": [D // 2, 3],
        **norm("vpe.norm", D),
    }
    for i in range(12):
        block = f"backbone.blocks.{i}"
        table |= norm(f"{block}.norm1", D) | norm(f"{block}.norm2", D)
        table |= linear(f"{block}.attn.qkv", D, 3 * D) | linear(f"{block}.attn.proj", D, D)
        table |= {f"{block}.ls1.gamma": [D], f"{block}.ls2.gamma": [D]}
        table |= linear(f"{block}.mlp.fc1", D, 4 * D) | linear(f"{block}.mlp.fc2", 4 * D, D)
    for j in range(3):
        read, write = f"canvas_reads.{j}", f"canvas_writes.{j}"
        table |= linear(f"{read}.q_map", D, C) | linear(f"{read}.o_map", C, D)
        table |= linear(f"{write}.k_map", D, C) | linear(f"{write}.v_map", D, C)
        table |= norm(f"{read}.ln_q", D) | norm(f"{read}.ln_kv", C)
        table |= norm(f"{write}.ln_q", C) | norm(f"{write}.ln_kv", D)
    return {f"canvit.{key}": shape for key, shape in table.items()}


PRETRAINING_HEADS = {
    **norm("teacher_patch_readout.norm", C),
    **linear("teacher_patch_readout.proj", C, D),
    **norm("teacher_cls_readout.norm", D),
    **linear("teacher_cls_readout.proj", D, D),
    "teacher_patch_standardizer.mean": [1024, D],
    "teacher_patch_standardizer.var": [1024, D],
    "teacher_patch_standardizer.fitted": [],
    "teacher_cls_standardizer.mean": [1, D],
    "teacher_cls_standardizer.var": [1, D],
    "teacher_cls_standardizer.fitted": [],
}
CLASSIFIER_HEADS = {**norm("readout.norm", D), **linear("readout.proj", D, 1000)}


@pytest.mark.parametrize(
    ("model_class", "arguments", "heads", "num_tensors", "num_parameters"),
    [
        (
            CanViTForPretraining,
            {"teacher_dim": D, "teacher_patch_grid": 32},
            PRETRAINING_HEADS,
            239,
            96_538_624,
        ),
        (CanViTForImageClassification, {"n_classes": 1000}, CLASSIFIER_HEADS, 229, 95_927_784),
    ],
)
def test_tensors_are_the_published_ones(
    model_class: type[CanViTWithHead],
    arguments: dict[str, int],
    heads: dict[str, list[int]],
    num_tensors: int,
    num_parameters: int,
) -> None:
    with torch.device("meta"):
        model = model_class(canvit_config=CanViTConfig(), **arguments)
    state = model.state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == published_core() | heads
    assert len(state) == num_tensors
    flags = {key for key, tensor in state.items() if tensor.dtype == torch.bool}
    assert flags == {key for key in heads if key.endswith(".fitted")}
    assert all(state[key].dtype == torch.float32 for key in state.keys() - flags)
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    # Nothing hides beside the state dict: what a checkpoint holds is all there is.
    assert {name for name, _ in model.named_buffers()} <= state.keys()


@pytest.mark.parametrize(
    ("changes", "num_parameters"),
    [
        ({}, 95_157_248),
        ({"canvas_num_heads": 2}, 88_050_176),
        ({"canvas_num_heads": 2, "canvas_projections": "qkvo"}, 88_839_680),
        ({"canvas_num_heads": 3, "canvas_projections": "qkvo"}, 91_008_768),
        ({"enable_reads": False}, 90_422_528),
        ({"rw_stride": 6}, 88_843_776),
        ({"backbone_name": "vits16"}, 26_364_416),
        ({"enable_vpe": False}, 95_155_712),
    ],
)
def test_published_parameter_counts(changes: dict[str, Any], num_parameters: int) -> None:
    with torch.device("meta"):
        core = CanViT(CanViTConfig(**changes))
    assert sum(p.numel() for p in core.parameters()) == num_parameters


def test_builds_on_the_meta_device() -> None:
    """Where checkpoints are loaded: nothing may be allocated, or be lost when weights come."""
    with torch.device("meta"):
        model = CanViT(CanViTConfig())
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_initial_tokens_have_the_published_spread() -> None:
    torch.manual_seed(0)
    core = CanViT(CanViTConfig(backbone_name="mini8", num_backbone_registers=50))
    for tokens, spread in (
        (core.backbone_registers, 0.02),
        (core.init_canvas_registers, 1024**-0.5),
        (core.init_canvas_patch, 1024**-0.5),
        (core.init_recurrent_cls, 128**-0.5),
    ):
        standard_error = (2 * tokens.numel()) ** -0.5  # of a spread, as a share of it
        assert tokens.std().item() == pytest.approx(spread, rel=5 * standard_error)


@pytest.mark.parametrize(
    ("changes", "reads", "writes"),
    [
        ({}, (1, 5, 9), (3, 7, 11)),
        ({"rw_stride": 6}, (5,), (11,)),
        ({"rw_stride": 1}, (0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11)),
        ({"rw_stride": 5}, (4,), (9, 11)),
        ({"rw_stride": 12}, (11,), (11,)),
        ({"rw_stride": 13}, (), (11,)),
        ({"enable_reads": False}, (), (3, 7, 11)),
        ({"backbone_name": "mini8"}, (1, 5), (3, 5)),
    ],
)
def test_schedule(changes: dict[str, Any], reads: tuple[int, ...], writes: tuple[int, ...]) -> None:
    assert ReadWriteSchedule.of(CanViTConfig(**changes)) == ReadWriteSchedule(
        reads=reads, writes=writes
    )


@pytest.mark.parametrize("enable_reads", [True, False])
def test_schedule_agrees_with_the_reference(enable_reads: bool) -> None:
    reference = pytest.importorskip("canvit_core.attention")
    for rw_stride in range(1, 15):
        config = CanViTConfig(rw_stride=rw_stride, enable_reads=enable_reads)
        schedule = ReadWriteSchedule.of(config)
        assert (schedule.reads, schedule.writes) == reference.canvas_attention_schedule(
            num_blocks=12, rw_stride=rw_stride, enable_reads=enable_reads
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_name": "vitz16"}, "'vitz16'; known: vits16, vitb16"),
        ({"canvas_projections": "full"}, "'full'; known: asymmetric, qkvo"),
        ({"canvas_head_dim": 30}, "canvas_head_dim is 30"),
        ({"canvas_head_dim": 0}, "canvas_head_dim is 0"),
        ({"canvas_num_heads": 0}, "canvas_num_heads is 0"),
        ({"rw_stride": 0}, "rw_stride 0"),
        ({"num_canvas_registers": -1}, "num_canvas_registers is -1"),
        ({"num_backbone_registers": -1}, "num_backbone_registers -1"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CanViTConfig(**changes)


def test_from_dict_fills_in_defaults() -> None:
    assert CanViTConfig.from_dict({"rw_stride": 6}) == CanViTConfig(rw_stride=6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rw_strides": 2}, "unknown fields rw_strides; known: .*rw_stride"),
        ({"rw_stride": "2"}, "rw_stride '2'; give a value of int"),
        ({"rw_stride": True}, "rw_stride True; give a value of int"),
        ({"enable_vpe": 1}, "enable_vpe 1; give a value of bool"),
        ({"backbone_name": ["vitb16"]}, "give a value of str"),
        (["vitb16"], "give an object of fields"),
    ],
)
def test_malformed_dict_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CanViTConfig.from_dict(values)
