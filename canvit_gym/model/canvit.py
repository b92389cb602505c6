"""CanViT: one glimpse in, an updated canvas and recurrent CLS out (arXiv 2603.22570, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canvit_gym.geometry import Viewpoint, grid_centers, grid_in_scene
from canvit_gym.model.attention import CanvasAttention
from canvit_gym.model.backbone import Backbone
from canvit_gym.model.config import CanViTConfig, ReadWriteSchedule
from canvit_gym.model.rope import rotation_at


@dataclass(frozen=True, kw_only=True)
class RecurrentState:
    """The memory that CanViT has of a scene.

    canvas: float32 [B, registers + G^2, C], registers first, then patches row-major. Its values
        grow to 1e4: read it through a LayerNorm only.
    recurrent_cls: float32 [B, 1, D].
    """

    canvas: Tensor
    recurrent_cls: Tensor

    def __getitem__(self, index: Tensor | slice) -> RecurrentState:
        """The states of some of the scenes, by mask, indices or slice."""
        return RecurrentState(canvas=self.canvas[index], recurrent_cls=self.recurrent_cls[index])

    def detach(self) -> RecurrentState:
        """The same values, through which no gradient flows."""
        return RecurrentState(
            canvas=self.canvas.detach(), recurrent_cls=self.recurrent_cls.detach()
        )


@dataclass(frozen=True, kw_only=True)
class CanViTOutput:
    """state: the state after the glimpse. glimpse_patches: [B, g^2, D]. vpe: [B, D], or None."""

    state: RecurrentState
    glimpse_patches: Tensor
    vpe: Tensor | None


class ViewpointEncoding(nn.Module):
    """Random Fourier features of (row / s, col / s, log s), normalised: a token, float32 [B, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Drawn on the CPU whatever the default device: a seed means other numbers elsewhere.
        generator = torch.Generator().manual_seed(42)
        frequencies = torch.randn(dim // 2, 3, generator=generator, device="cpu")
        here = torch.empty(0).device  # torch 2.9's get_default_device fails after a None
        self.register_buffer("frequencies", frequencies.to(here))
        self.frequencies: Tensor
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, 1 / math.sqrt(dim))

    def forward(self, viewpoint: Viewpoint) -> Tensor:
        scales = viewpoint.scales[:, None]
        with torch.autocast(scales.device.type, enabled=False):
            z = torch.cat((viewpoint.centers / scales, scales.log()), dim=1)
            phases = z @ self.frequencies.T
            return self.norm(torch.cat((phases.cos(), phases.sin()), dim=1))


def _tokens(count: int, dim: int, *, std: float) -> nn.Parameter:
    """Learned tokens [1, count, dim], drawn from a normal distribution.

    Its truncation at 2 is too far away to matter; on the meta device, where checkpoints are loaded,
    this initialiser does nothing, while `torch.randn` spends seconds importing the compiler.
    """
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=std))


class Core(nn.Module):
    """The core that heads stand on: the plain network (`CanViT`) or its fast form (`FrozenCanViT`).

    Called with a glimpse, a state and a viewpoint, it gives the state after the glimpse.

    init_canvas_registers [1, registers, C], init_canvas_patch [1, 1, C], init_recurrent_cls
    [1, 1, D]: float32, what a scene's memory begins with.
    """

    init_canvas_registers: nn.Parameter
    init_canvas_patch: nn.Parameter
    init_recurrent_cls: nn.Parameter

    def __init__(self, config: CanViTConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = ReadWriteSchedule.of(config)

    def init_state(self, *, batch_size: int, canvas_grid_size: int) -> RecurrentState:
        """The state before the first glimpse; any canvas grid works with any checkpoint."""
        patches = self.init_canvas_patch.expand(batch_size, canvas_grid_size**2, -1)
        registers = self.init_canvas_registers.expand(batch_size, -1, -1)
        return RecurrentState(
            canvas=torch.cat((registers, patches), dim=1),
            recurrent_cls=self.init_recurrent_cls.expand(batch_size, -1, -1),
        )

    def canvas_grid_size(self, state: RecurrentState) -> int:
        """Side of the canvas grid; ValueError where the state is of another model."""
        num_patches = state.canvas.shape[1] - self.config.num_canvas_registers
        size = math.isqrt(max(num_patches, 0))
        if size**2 != num_patches:
            raise ValueError(
                f"A canvas of {state.canvas.shape[1]} tokens is no square grid beside "
                f"{self.config.num_canvas_registers} registers; give a state of this model."
            )
        return size

    def canvas_patches(self, state: RecurrentState) -> Tensor:
        """The raw canvas without its registers: [B, G^2, C]. Normalise before use."""
        return state.canvas[:, self.config.num_canvas_registers :]

    def feature_map(self, state: RecurrentState) -> Tensor:
        """Canvas patches after a LayerNorm: float32 [B, G^2, C]."""
        # The registers too, because normalising a slice would copy it first.
        normalized = F.layer_norm(state.canvas, state.canvas.shape[-1:])
        return normalized[:, self.config.num_canvas_registers :]

    def feature_vector(self, state: RecurrentState) -> Tensor:
        """The recurrent CLS after a LayerNorm: float32 [B, D]."""
        cls = state.recurrent_cls[:, 0].float()
        return F.layer_norm(cls, cls.shape[-1:])

    def forward(
        self,
        *,
        glimpse: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        consume_state: bool = False,
    ) -> CanViTOutput:
        """Take in one glimpse, float [B, 3, g * patch, g * patch] with ImageNet normalisation.

        `consume_state` gives the state up, which the frozen core makes use of, the plain one not.
        Raises ValueError where the glimpse is not square, or not in whole patches.
        """
        raise NotImplementedError


class CanViT(Core):
    """The core network, without heads. State-dict keys are the published 0.2 ones."""

    def __init__(self, config: CanViTConfig) -> None:
        super().__init__(config)
        dim, canvas_dim = config.backbone.dim, config.canvas_dim
        self.backbone = Backbone(config.backbone)
        self.canvas_reads = nn.ModuleList(CanvasAttention.read(config) for _ in self.schedule.reads)
        self.canvas_writes = nn.ModuleList(
            CanvasAttention.write(config) for _ in self.schedule.writes
        )
        self.vpe = ViewpointEncoding(dim) if config.enable_vpe else None
        self.backbone_registers = _tokens(config.num_backbone_registers, dim, std=0.02)
        canvas_std = 1 / math.sqrt(canvas_dim)
        self.init_canvas_registers = _tokens(
            config.num_canvas_registers, canvas_dim, std=canvas_std
        )
        self.init_canvas_patch = _tokens(1, canvas_dim, std=canvas_std)
        self.init_recurrent_cls = _tokens(1, dim, std=1 / math.sqrt(dim))

    def forward(
        self,
        *,
        glimpse: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        consume_state: bool = False,
    ) -> CanViTOutput:
        """Take in one glimpse, as `Core.forward` says."""
        patch_size_px = self.config.backbone.patch_size_px
        if glimpse.shape[-2] != glimpse.shape[-1] or glimpse.shape[-1] % patch_size_px:
            raise ValueError(
                f"The glimpse has shape {list(glimpse.shape)}; give [batch, 3, side, side] with a "
                f"side in multiples of {patch_size_px} px."
            )
        patches = self.backbone.patch_embed(glimpse)
        batch_size, num_patches, _ = patches.shape
        config = self.config

        glimpse_positions = grid_in_scene(viewpoint, math.isqrt(num_patches))
        canvas_positions = grid_centers(self.canvas_grid_size(state), device=patches.device)[None]
        self_rotation = rotation_at(glimpse_positions, head_dim=config.backbone.head_dim)
        glimpse_rotation = rotation_at(glimpse_positions, head_dim=config.canvas_head_dim)
        canvas_rotation = rotation_at(canvas_positions, head_dim=config.canvas_head_dim)

        registers = self.backbone_registers.expand(batch_size, -1, -1)
        prefix = [state.recurrent_cls, registers]
        if self.vpe is not None:
            prefix.insert(0, self.vpe(viewpoint).to(patches.dtype)[:, None])
        tokens = torch.cat((*prefix, patches), dim=1)
        canvas = state.canvas

        reads = dict(zip(self.schedule.reads, self.canvas_reads, strict=True))
        writes = dict(zip(self.schedule.writes, self.canvas_writes, strict=True))
        for i, block in enumerate(self.backbone.blocks):
            tokens = block(tokens, self_rotation)
            if i in reads:
                tokens = tokens + reads[i](
                    query=tokens, key_value=canvas,
                    query_rotation=glimpse_rotation, key_rotation=canvas_rotation,
                )  # fmt: skip
            if i in writes:
                canvas = canvas + writes[i](
                    query=canvas, key_value=tokens,
                    query_rotation=canvas_rotation, key_rotation=glimpse_rotation,
                )  # fmt: skip

        cls_index = 0 if self.vpe is None else 1
        return CanViTOutput(
            state=RecurrentState(canvas=canvas, recurrent_cls=tokens[:, cls_index : cls_index + 1]),
            glimpse_patches=tokens[:, -num_patches:],
            vpe=None if self.vpe is None else tokens[:, 0],
        )
