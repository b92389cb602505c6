"""The ViT that looks at one glimpse: patch embedding and pre-norm blocks with SR-RoPE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canvit_gym.model.config import BackboneSpec
from canvit_gym.model.rope import Rotation, rotate


def split_heads(x: Tensor, *, num_heads: int) -> Tensor:
    """[B, N, heads * d] -> [B, heads, N, d]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x.transpose(1, 2).flatten(2)


class PatchEmbed(nn.Module):
    """Glimpse [B, 3, g * patch, g * patch] -> tokens [B, g^2, D], row-major."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.dim, spec.patch_size_px, stride=spec.patch_size_px)

    def forward(self, glimpse: Tensor) -> Tensor:
        return self.proj(glimpse).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; keys have no bias, whatever the stored one says."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim)
        self.proj = nn.Linear(spec.dim, spec.dim)

    @property
    def qkv_bias(self) -> Tensor:
        """The bias that counts: [3 D], with zeros for the keys."""
        query, key, value = self.qkv.bias.chunk(3)
        return torch.cat((query, torch.zeros_like(key), value))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        qkv = F.linear(x, self.qkv.weight, self.qkv_bias)
        q, k, v = (split_heads(part, num_heads=self.num_heads) for part in qkv.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v)
        return self.proj(merge_heads(attended))


class Mlp(nn.Module):
    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.dim, spec.mlp_ratio * spec.dim)
        self.fc2 = nn.Linear(spec.mlp_ratio * spec.dim, spec.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((spec.dim,), spec.layerscale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: x [B, N, D] -> [B, N, D]."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim)
        self.attn = SelfAttention(spec)
        self.ls1 = LayerScale(spec)
        self.norm2 = nn.LayerNorm(spec.dim)
        self.mlp = Mlp(spec)
        self.ls2 = LayerScale(spec)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Backbone(nn.Module):
    """Patch embedding and blocks. CanViT runs the blocks, reading and writing in between."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_blocks))
        self.apply(_init_linear)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
