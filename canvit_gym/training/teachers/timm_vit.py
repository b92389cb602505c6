"""Any vision transformer of timm: `timm/NAME`, as the hub calls its weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from canvit_gym.training.teachers.base import TeacherFeatures, TeacherNotFound, grid_of_patches

_PREFIX = "timm/"


class TimmViT:
    """Patches of the last layer; as CLS the class token, or where there is none, the network's own
    pooling of the patches."""

    def __init__(self, model: Any, *, name: str) -> None:
        """Raises ValueError where the network has no tokens."""
        if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "patch_embed"):
            raise ValueError(
                f"The teacher {name!r} is a {type(model).__name__}, no vision transformer; choose "
                "one of timm.list_models('vit_*')."
            )
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._has_class_token = getattr(model, "cls_token", None) is not None
        self.dim = int(self._model.num_features)
        settings: dict[str, Any] = self._model.pretrained_cfg
        self._mean, self._std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """The network's own, where it reads what `cls` is."""
        model = self._model
        reads_cls = not self._has_class_token or (
            model.global_pool == "token" and isinstance(model.fc_norm, nn.Identity)
        )
        if not reads_cls or not isinstance(model.head, nn.Linear):
            return None
        bias = model.head.bias
        return model.head.weight, bias if bias is not None else model.head.weight.new_zeros(
            len(model.head.weight)
        )

    def patch_grid(self, size_px: int) -> int:
        patch_size_px = int(self._model.patch_embed.patch_size[0])
        return grid_of_patches(self.name, size_px=size_px, patch_size_px=patch_size_px)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        self.patch_grid(pictures.shape[1])
        mean, std = (x.to(pictures.device).view(-1, 1, 1) for x in (self._mean, self._std))
        tokens = self._model.forward_features(
            (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std
        )
        patches = tokens[:, self._model.num_prefix_tokens :].float()
        if self._has_class_token:
            return TeacherFeatures(patches=patches, cls=tokens[:, 0].float())
        pooled = self._model.forward_head(tokens, pre_logits=True)
        return TeacherFeatures(patches=patches, cls=pooled.float())


def load(name: str, *, device: torch.device | str) -> TimmViT:
    """The teacher of a model of timm, with its weights from the hub.

    Raises ValueError where timm has no such model, or it takes pictures of one size only, and
    TeacherNotFound where its weights can not be had.
    """
    model_name = name.removeprefix(_PREFIX)
    if not timm.is_model(model_name):
        similar = timm.list_models(f"*{model_name.partition('.')[0][:12]}*")[:3]
        raise ValueError(
            f"The teacher {name!r} is no model of timm {timm.__version__}; choose one of "
            f"timm.list_models('vit_*'){', such as ' + ', '.join(similar) if similar else ''}."
        )
    try:
        model = timm.create_model(model_name, pretrained=True, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(
            f"The teacher {name!r} is no vision transformer that takes pictures of any size; "
            "choose one of timm.list_models('vit_*')."
        ) from error
    except Exception as error:  # its kinds differ between versions of timm and the hub
        raise TeacherNotFound(
            f"The weights of the teacher {name!r} can not be had ({type(error).__name__}); "
            f"download {name} once with access to the Hugging Face hub, or choose a model that "
            "timm has weights of."
        ) from error
    return TimmViT(model.to(device), name=name)
