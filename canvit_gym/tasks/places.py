"""Beliefs about places, and the truth, brought to the size at which they are compared."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_CHUNK_BYTES = 2**28
"""Beliefs are enlarged for so many bytes of scenes at a time: one scene of 150 classes at 512 px
takes 157 MB."""


def enlarged(belief: Tensor, *, size_px: int) -> Tensor:
    """[B, C, G, G], enlarged bilinearly to [B, C, S, S]."""
    if belief.shape[-1] == size_px:
        return belief
    return F.interpolate(belief, size=(size_px, size_px), mode="bilinear")


def scenes_at_once(belief: Tensor, *, size_px: int) -> int:
    """How many scenes' beliefs are enlarged at a time."""
    return max(1, _CHUNK_BYTES // (4 * belief.shape[1] * size_px**2))


def reduced(truth: np.ndarray, *, size_px: int) -> np.ndarray:
    """[H, H], reduced to [S, S] by nearest neighbour."""
    if len(truth) == size_px:
        return truth
    return np.asarray(Image.fromarray(truth).resize((size_px, size_px), Image.Resampling.NEAREST))
