"""Scene-relative rotary position embedding (SR-RoPE), always in float32."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_PERIOD_BASE = 100.0


class Rotation(NamedTuple):
    """Sine and cosine of the angles at N positions: float32 [B, 1, N, head_dim] each."""

    sin: Tensor
    cos: Tensor


def rotation_at(positions: Tensor, *, head_dim: int) -> Rotation:
    """Rotation for scene positions, float32 [B, N, 2] in (row, col).

    head_dim / 4 frequencies an axis, with periods from 1 up to 100 scene units.
    """
    num_frequencies = head_dim // 4
    exponents = torch.arange(num_frequencies, dtype=torch.float32, device=positions.device)
    periods = _PERIOD_BASE ** (exponents / num_frequencies)
    angles = 2 * math.pi * positions.float()[..., None] / periods  # [B, N, 2, frequencies]
    angles = angles.flatten(-2).tile(2)[:, None]
    return Rotation(sin=angles.sin(), cos=angles.cos())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the last N tokens of x [B, heads, tokens, head_dim]; the prefix has no position."""
    num_rotated = rotation.sin.shape[-2]
    prefix, tail = x.split((x.shape[-2] - num_rotated, num_rotated), dim=-2)
    tail32 = tail.float()
    low, high = tail32.chunk(2, dim=-1)
    rotated = tail32 * rotation.cos + torch.cat((-high, low), dim=-1) * rotation.sin
    return torch.cat((prefix, rotated.to(x.dtype)), dim=-2)
