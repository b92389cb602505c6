"""DINOv3 (the published teacher) through transformers: a hub id, or a directory that
`save_pretrained` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, DINOv3ViTModel

from canvit_gym.preprocess import normalize
from canvit_gym.training.teachers.base import TeacherFeatures, TeacherNotFound, grid_of_patches

_MODEL_TYPE = "dinov3_vit"


class DINOv3:
    """Patches and CLS of the last layer, normalised by the network's own last norm."""

    classifier = None

    def __init__(self, model: DINOv3ViTModel, *, name: str) -> None:
        self.name = name
        self._model: Any = model.eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)
        # CLS first, then registers, of which there may be none.
        self._prefix = 1 + int(model.config.num_register_tokens)

    def patch_grid(self, size_px: int) -> int:
        patch_size_px = int(self._model.config.patch_size)
        return grid_of_patches(self.name, size_px=size_px, patch_size_px=patch_size_px)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        self.patch_grid(pictures.shape[1])
        tokens = self._model(pixel_values=normalize(pictures)).last_hidden_state.float()
        return TeacherFeatures(patches=tokens[:, self._prefix :], cls=tokens[:, 0])

    def backbone_weights(self) -> dict[str, Tensor]:
        """Its blocks and patch embedding, under the names that `model.backbone.Backbone` has."""
        own = self._model.state_dict()
        weights = {
            f"patch_embed.proj.{kind}": own[f"embeddings.patch_embeddings.{kind}"]
            for kind in ("weight", "bias")
        }
        for i in range(int(self._model.config.num_hidden_layers)):
            block = {
                name.removeprefix(f"model.layer.{i}."): tensor
                for name, tensor in own.items()
                if name.startswith(f"model.layer.{i}.")
            }
            parts = [
                (block[f"attention.{part}_proj.weight"], block.get(f"attention.{part}_proj.bias"))
                for part in "qkv"
            ]
            found = {
                "attn.qkv.weight": torch.cat([weight for weight, _ in parts]),
                "attn.qkv.bias": torch.cat(
                    [
                        weight.new_zeros(len(weight)) if bias is None else bias
                        for weight, bias in parts
                    ]
                ),
                "ls1.gamma": block["layer_scale1.lambda1"],
                "ls2.gamma": block["layer_scale2.lambda1"],
            }
            for kind in ("weight", "bias"):
                found |= {
                    f"norm1.{kind}": block[f"norm1.{kind}"],
                    f"norm2.{kind}": block[f"norm2.{kind}"],
                    f"attn.proj.{kind}": block[f"attention.o_proj.{kind}"],
                    f"mlp.fc1.{kind}": block[f"mlp.up_proj.{kind}"],
                    f"mlp.fc2.{kind}": block[f"mlp.down_proj.{kind}"],
                }
            weights |= {f"blocks.{i}.{name}": tensor for name, tensor in found.items()}
        return weights


def load(name: str, *, device: torch.device | str) -> DINOv3:
    """The teacher of a hub id or directory.

    Raises TeacherNotFound where it can not be had, and ValueError where it is another network.
    """
    source = Path(name).expanduser()
    where = str(source) if source.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(where)
        if config.model_type != _MODEL_TYPE:
            raise _AnotherModel(config.model_type)
        model, found = DINOv3ViTModel.from_pretrained(
            where, config=config, use_safetensors=True, output_loading_info=True
        )
    except _AnotherModel as error:
        raise ValueError(
            f"The teacher {name!r} is a {error}, no DINOv3; give an id such as "
            "'facebook/dinov3-vitb16-pretrain-lvd1689m', or 'timm/NAME' for any ViT of timm."
        ) from error
    except Exception as error:  # its kinds differ between versions of transformers and the hub
        advice = (
            "give a directory with config.json and model.safetensors"
            if source.exists()
            else f"accept its licence at https://huggingface.co/{name} and log in with `hf auth "
            "login`, or give a directory that holds it"
        )
        raise TeacherNotFound(
            f"The teacher {name!r} can not be loaded ({type(error).__name__}); {advice}."
        ) from error
    if found["missing_keys"] or found["mismatched_keys"]:
        lacking = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
        raise ValueError(
            f"The weights of the teacher {name!r} do not fit its config: {len(lacking)} tensors, "
            f"first {lacking[0]}; download it again."
        )
    return DINOv3(model.to(device), name=name)


class _AnotherModel(Exception):
    """Its text is the model's type."""
