"""From the model's device to numpy, everything at once: each transfer makes the CPU wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = dict[str, Any]
"""Tensors or arrays by name, or such dicts again."""


def to_numpy(tree: Tree) -> Tree:
    """The same dicts with arrays of the same shapes and dtypes in place of their tensors.

    Arrays share the memory of tensors that are on the CPU; others come in one transfer.
    """
    tensors = list(_leaves(tree))
    if not _on_cpu(tensors):
        tensors = in_one_transfer(tensors)
    arrays = iter([tensor.numpy() for tensor in tensors])
    return _with_leaves(tree, arrays)


def in_one_transfer(tensors: list[Tensor]) -> list[Tensor]:
    """Copies on the CPU of tensors of any shapes and dtypes on one device."""
    # Wide numbers first, so that each tensor begins at a multiple of its numbers' width.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    pieces = [tensors[i].reshape(-1).view(torch.uint8) for i in order]
    received = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
    copies = {
        i: piece.view(tensors[i].dtype).view(tensors[i].shape)
        for i, piece in zip(order, received, strict=True)
    }
    return [copies[i] for i in range(len(tensors))]


def _on_cpu(tensors: list[Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _leaves(tree: Tree) -> Iterator[Tensor]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _with_leaves(tree: Tree, leaves: Iterator[np.ndarray]) -> Tree:
    return {
        key: _with_leaves(value, leaves) if isinstance(value, dict) else next(leaves)
        for key, value in tree.items()
    }
