"""CanViT with a head: teacher features for pretraining, class logits for classification.

Heads compute in float32 whatever autocast says: rounding logits changes predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from canvit_gym.geometry import Viewpoint
from canvit_gym.model.canvit import CanViT, CanViTOutput, Core, RecurrentState
from canvit_gym.model.checkpoints import Checkpointed, load_probe
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.flops import classification_flops, glimpse_flops

_STANDARDIZER_EPS = 1e-6


class Readout(nn.Module):
    """LayerNorm then Linear, float32 out."""

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.proj = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.proj(self.norm(x.float()))


class Standardizer(nn.Module):
    """Per-position z-score of teacher features [B, N, D]; its statistics come with a checkpoint."""

    def __init__(self, *, num_positions: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_positions, dim))
        self.register_buffer("var", torch.ones(num_positions, dim))
        self.register_buffer("fitted", torch.tensor(False))
        self.mean: Tensor
        self.var: Tensor
        self.fitted: Tensor

    @property
    def std(self) -> Tensor:
        return (self.var + _STANDARDIZER_EPS).sqrt()

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take mean and biased variance over samples [S, N, D]."""
        self.mean.copy_(features.mean(dim=0))
        self.var.copy_(features.var(dim=0, unbiased=False))
        self.fitted.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        self.check_fitted()
        return (features - self.mean) / self.std

    def destandardize(self, standardized: Tensor) -> Tensor:
        self.check_fitted()
        return standardized * self.std + self.mean

    def check_fitted(self) -> None:
        """Raise RuntimeError unless there are statistics."""
        if not bool(self.fitted):
            raise RuntimeError(
                "The standardizer has no statistics yet; load a checkpoint or call fit(features)."
            )


class HasCore(nn.Module):
    """A model that stands on a core, through which it is a `model.recurrent.RecurrentModel`."""

    canvit: Core

    @property
    def map_dim(self) -> int:
        return self.canvit.config.canvas_dim

    @property
    def vector_dim(self) -> int:
        return self.canvit.config.backbone.dim

    def init_state(self, *, batch_size: int, canvas_grid_size: int) -> RecurrentState:
        """The state before the first glimpse."""
        return self.canvit.init_state(batch_size=batch_size, canvas_grid_size=canvas_grid_size)

    def take_in(
        self,
        *,
        glimpse: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        consume_state: bool = False,
    ) -> RecurrentState:
        """The state after one glimpse, as `Core.forward` says."""
        return self.canvit(
            glimpse=glimpse, state=state, viewpoint=viewpoint, consume_state=consume_state
        ).state

    def feature_map(self, state: RecurrentState) -> Tensor:
        """Canvas patches after a LayerNorm: float32 [B, G^2, C]."""
        return self.canvit.feature_map(state)

    def feature_vector(self, state: RecurrentState) -> Tensor:
        """The recurrent CLS after a LayerNorm: float32 [B, D]."""
        return self.canvit.feature_vector(state)

    def glimpse_flops(self, *, glimpse_size_px: int, canvas_grid_size: int) -> int:
        """FLOPs of one forward for one scene, without the head."""
        config = self.canvit.config
        patches = glimpse_size_px // config.backbone.patch_size_px
        return glimpse_flops(config, glimpse_grid=patches, canvas_grid=canvas_grid_size)


class CanViTWithHead(HasCore, Checkpointed):
    """The base of task models: a core, and checkpoints.

    config_fields: `canvit_config`, then attributes of the same name, all positive integers.
    """

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        sizes = {field: config[field] for field in cls.config_fields[1:]}
        if any(type(value) is not int or value < 1 for value in sizes.values()):
            raise ValueError(f"{sizes} must be positive integers; download it again.")
        return {"canvit_config": CanViTConfig.from_dict(config["canvit_config"]), **sizes}

    def config_values(self) -> dict[str, Any]:
        sizes = {field: getattr(self, field) for field in self.config_fields[1:]}
        return {"canvit_config": asdict(self.canvit.config), **sizes}


class CanViTForPretraining(CanViTWithHead):
    """CanViT with readouts of its teacher's patch and CLS features (standardized)."""

    config_fields = ("canvit_config", "teacher_dim", "teacher_patch_grid")

    def __init__(
        self, *, canvit_config: CanViTConfig, teacher_dim: int, teacher_patch_grid: int
    ) -> None:
        super().__init__()
        self.teacher_dim, self.teacher_patch_grid = teacher_dim, teacher_patch_grid
        self.canvit: Core = CanViT(canvit_config)
        self.teacher_patch_readout = Readout(in_dim=canvit_config.canvas_dim, out_dim=teacher_dim)
        self.teacher_cls_readout = Readout(in_dim=canvit_config.backbone.dim, out_dim=teacher_dim)
        for readout in (self.teacher_patch_readout, self.teacher_cls_readout):
            nn.init.constant_(readout.norm.weight, 1 / math.sqrt(readout.proj.in_features))
        self.teacher_patch_standardizer = Standardizer(
            num_positions=teacher_patch_grid**2, dim=teacher_dim
        )
        self.teacher_cls_standardizer = Standardizer(num_positions=1, dim=teacher_dim)

    def forward(
        self, *, glimpse: Tensor, state: RecurrentState, viewpoint: Viewpoint
    ) -> CanViTOutput:
        return self.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint)

    def predict_teacher_patches(self, state: RecurrentState) -> Tensor:
        """Standardized teacher patches, [B, G^2, teacher_dim]."""
        return self.teacher_patch_readout(self.canvit.canvas_patches(state))

    def predict_teacher_cls(self, state: RecurrentState) -> Tensor:
        """Standardized teacher CLS, [B, teacher_dim]."""
        return self.teacher_cls_readout(state.recurrent_cls[:, 0])


class CanViTForImageClassification(CanViTWithHead):
    """CanViT with class logits read from the recurrent CLS."""

    config_fields = ("canvit_config", "n_classes")

    def __init__(self, *, canvit_config: CanViTConfig, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.canvit: Core = CanViT(canvit_config)
        self.readout = Readout(in_dim=canvit_config.backbone.dim, out_dim=n_classes)

    def readout_flops(self, *, canvas_grid_size: int) -> int:
        """FLOPs of the logits of one scene."""
        return classification_flops(self.canvit.config, num_classes=self.n_classes)

    def logits(self, state: RecurrentState) -> Tensor:
        """Class logits float32 [B, n_classes]."""
        return self.readout(state.recurrent_cls[:, 0])

    def forward(
        self, *, glimpse: Tensor, state: RecurrentState, viewpoint: Viewpoint
    ) -> tuple[Tensor, RecurrentState]:
        """(logits float32 [B, n_classes], the state after the glimpse)."""
        state = self.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint).state
        return self.logits(state), state

    @classmethod
    def from_pretrained_with_probe(
        cls,
        pretrained_name: str | Path,
        probe_name: str | Path,
        *,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A pretrained checkpoint with a linear probe of its teacher fused in, in eval mode."""
        pretrained = CanViTForPretraining.from_pretrained(pretrained_name)
        probe_weight, probe_bias = load_probe(probe_name)
        return cls.fuse(pretrained, probe_weight=probe_weight, probe_bias=probe_bias).to(device)

    @classmethod
    def fuse(
        cls, pretrained: CanViTForPretraining, *, probe_weight: Tensor, probe_bias: Tensor
    ) -> Self:
        """A classifier from a pretrained model and a linear probe of its teacher's CLS.

        probe_weight [n_classes, teacher_dim], probe_bias [n_classes]. CLS readout, inverse
        z-score and probe are linear one after another, so they become one Linear (in float64).
        Shares the core with `pretrained`, and its device and mode. Raises ValueError where the
        probe's width disagrees.
        """
        n_classes, in_features = probe_weight.shape
        if in_features != pretrained.teacher_dim:
            raise ValueError(
                f"The probe reads {in_features} features, but this CanViT predicts a teacher of "
                f"{pretrained.teacher_dim}; choose the probe of the same teacher."
            )
        source, standardizer = pretrained.teacher_cls_readout, pretrained.teacher_cls_standardizer
        standardizer.check_fitted()
        # On the CPU, because not every device has float64.
        probe, sigma, mu, proj_weight, proj_bias = (
            x.detach().to("cpu", torch.float64)
            for x in (
                probe_weight,
                standardizer.std[0],
                standardizer.mean[0],
                source.proj.weight,
                source.proj.bias,
            )
        )
        readout = {
            "norm.weight": source.norm.weight.detach().clone(),
            "norm.bias": source.norm.bias.detach().clone(),
            "proj.weight": (probe * sigma @ proj_weight).to(source.proj.weight),
            "proj.bias": (probe @ (sigma * proj_bias + mu) + probe_bias.to(probe)).to(
                source.proj.bias
            ),
        }
        # On the meta device, because the core of `pretrained` takes the place of its own.
        with torch.device("meta"):
            model = cls(canvit_config=pretrained.canvit.config, n_classes=n_classes)
        model.canvit = pretrained.canvit
        model.readout.load_state_dict(readout, assign=True)
        return model.train(pretrained.training)
