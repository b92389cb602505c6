"""The older checkpoint format: what canvit-pytorch 0.1 wrote, in the terms of 0.2.

Same weights, other names. Published models hold it at their hub revision `canvit-pytorch-0.1`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_CONFIG_NAMES = {
    "n_backbone_registers": "num_backbone_registers",
    "n_canvas_registers": "num_canvas_registers",
    "canvas_num_heads": "canvas_num_heads",
    "canvas_head_dim": "canvas_head_dim",
    "rw_stride": "rw_stride",
    "enable_reads": "enable_reads",
    "enable_vpe": "enable_vpe",
}
_PROJECTIONS = {"asymmetric": "asymmetric", "full": "qkvo"}

# Heads sit beside the core in 0.1 and in 0.2; everything else is the core's.
_HEAD_NAMES = {
    "scene_patches_head.": "teacher_patch_readout.",
    "scene_cls_head.": "teacher_cls_readout.",
    "scene_standardizers.{grid}.": "teacher_patch_standardizer.",
    "cls_standardizers.{grid}.": "teacher_cls_standardizer.",
    "norm.": "readout.norm.",
    "head.": "readout.proj.",
}
_CORE_NAMES = (
    (r"^canvas_(read|write)\.", r"canvas_\1s."),
    (r"^(canvas_\w+\.\d+)\.([qkv])_proj\.", r"\1.\2_map."),
    (r"^(canvas_\w+\.\d+)\.out_proj\.", r"\1.o_map."),
    (r"^(canvas_\w+\.\d+)\.q_norm\.", r"\1.ln_q."),
    (r"^(canvas_\w+\.\d+)\.kv_norm\.", r"\1.ln_kv."),
    (r"^canvas_register_init$", "init_canvas_registers"),
    (r"^canvas_spatial_init$", "init_canvas_patch"),
    (r"^recurrent_cls_init$", "init_recurrent_cls"),
    (r"^vpe\.B$", "vpe.frequencies"),
)


def is_legacy(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of the 0.1 format."""
    return isinstance(config.get("model_config"), dict) and "backbone_name" in config


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A 0.1 `config.json` as 0.2 has it.

    Fields that were added later may be absent, and unknown ones are ignored: tensors are what must
    fit. Raises ValueError for models that 0.2 cannot express.
    """
    old = config["model_config"]
    if (update := old.get("canvas_update_mode", "additive")) != "additive":
        raise ValueError(f"canvas_update_mode is {update!r}; only 'additive' models are supported.")
    if (projections := old.get("canvas_proj_mode", "asymmetric")) not in _PROJECTIONS:
        raise ValueError(
            f"canvas_proj_mode is {projections!r}; known: {', '.join(map(repr, _PROJECTIONS))}."
        )
    new: dict[str, Any] = {
        "canvit_config": {
            "backbone_name": config["backbone_name"],
            "canvas_projections": _PROJECTIONS[projections],
            **{name: old[old_name] for old_name, name in _CONFIG_NAMES.items() if old_name in old},
        }
    }
    if "n_classes" in config:
        new["n_classes"] = config["n_classes"]
    if (grids := config.get("canvas_patch_grid_sizes")) is not None:
        if not isinstance(grids, list) or len(grids) != 1:
            raise ValueError(f"canvas_patch_grid_sizes is {grids}; give a model of one grid size.")
        new |= {"teacher_patch_grid": grids[0], "teacher_dim": old.get("teacher_dim")}
    return new


def upgrade_tensors(tensors: Mapping[str, Tensor], *, grid: int | None) -> dict[str, Tensor]:
    """0.1 tensors under their 0.2 names; standardizers are those of the teacher's `grid`."""
    return {_upgrade_key(key, grid=grid): tensor for key, tensor in tensors.items()}


def _upgrade_key(key: str, *, grid: int | None) -> str:
    for old, new in _HEAD_NAMES.items():
        prefix = old.format(grid=grid)
        if key.startswith(prefix):
            return new + re.sub("^_initialized$", "fitted", key.removeprefix(prefix))
    key = key.removeprefix("canvit.")  # the classifier had the prefix, the pretraining model not
    for old, new in _CORE_NAMES:
        key = re.sub(old, new, key)
    return "canvit." + key
