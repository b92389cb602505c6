"""Cross-attention between the glimpse tokens and the canvas, at canvas width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from canvit_gym.model.backbone import merge_heads, split_heads
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.rope import Rotation, rotate


class CanvasAttention(nn.Module):
    """Query tokens [B, Nq, Dq] gather from key/value tokens [B, Nk, Dkv]; returns [B, Nq, Dq].

    Maps from and to canvas width are Linear where asked for and identity elsewhere: the asymmetric
    design spends no projection on the canvas side, which has many more tokens (paper, section 3).
    """

    def __init__(
        self,
        *,
        config: CanViTConfig,
        query_dim: int,
        key_dim: int,
        map_query: bool,
        map_key: bool,
        map_value: bool,
        map_output: bool,
    ) -> None:
        super().__init__()
        canvas_dim = config.canvas_dim
        self.num_heads = config.canvas_num_heads
        self.ln_q = nn.LayerNorm(query_dim)
        self.ln_kv = nn.LayerNorm(key_dim)
        self.q_map = nn.Linear(query_dim, canvas_dim) if map_query else nn.Identity()
        self.k_map = nn.Linear(key_dim, canvas_dim) if map_key else nn.Identity()
        self.v_map = nn.Linear(key_dim, canvas_dim) if map_value else nn.Identity()
        self.o_map = nn.Linear(canvas_dim, query_dim) if map_output else nn.Identity()

    @classmethod
    def read(cls, config: CanViTConfig) -> CanvasAttention:
        """Glimpse tokens query the canvas."""
        full = config.canvas_projections == "qkvo"
        return cls(
            config=config, query_dim=config.backbone.dim, key_dim=config.canvas_dim,
            map_query=True, map_key=full, map_value=full, map_output=True,
        )  # fmt: skip

    @classmethod
    def write(cls, config: CanViTConfig) -> CanvasAttention:
        """Canvas tokens query the glimpse."""
        full = config.canvas_projections == "qkvo"
        return cls(
            config=config, query_dim=config.canvas_dim, key_dim=config.backbone.dim,
            map_query=full, map_key=True, map_value=True, map_output=full,
        )  # fmt: skip

    def forward(
        self, *, query: Tensor, key_value: Tensor, query_rotation: Rotation, key_rotation: Rotation
    ) -> Tensor:
        normed = self.ln_kv(key_value)
        q, k, v = (
            split_heads(x, num_heads=self.num_heads)
            for x in (self.q_map(self.ln_q(query)), self.k_map(normed), self.v_map(normed))
        )
        q, k = rotate(q, query_rotation), rotate(k, key_rotation)
        # Under autocast an identity map leaves float32 beside bfloat16; attention wants one dtype.
        return self.o_map(
            merge_heads(F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype)))
        )
