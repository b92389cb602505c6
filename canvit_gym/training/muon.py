"""Muon: momentum whose matrices are orthogonalised before they are applied.

torch.optim.Muon iterates in bfloat16, which processors without bfloat16 arithmetic emulate: on two
such cores one step of the mini took 1.5 s there and 0.05 s here, in float32 with matrices of one
shape stacked. Method: Jordan et al., "Muon: an optimizer for hidden layers" (2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Roughly U V^T of each matrix U S V^T: float32 [n, rows, cols], quintic Newton-Schulz."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for 2-D weights; give everything else to AdamW."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        params = list(params)
        if bad := [tuple(p.shape) for p in params if p.ndim != 2]:
            raise ValueError(f"Muon was given tensors of shapes {bad}; it takes 2-D weights only.")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(state["momentum"], group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                for part, update in zip(_maps(p), _maps(nesterov), strict=True):
                    by_shape[part.shape].append((part, update))
            for shape, pairs in by_shape.items():
                updates = orthogonalise(torch.stack([update for _, update in pairs]))
                scale = max(1, shape[0] / shape[1]) ** 0.5
                for (part, _), update in zip(pairs, updates, strict=True):
                    part.add_(update, alpha=-group["lr"] * scale)


def _maps(weight: Tensor) -> tuple[Tensor, ...]:
    """The square maps that a fused qkv weight [3n, n] stacks; any other weight is one map."""
    rows, cols = weight.shape
    return weight.chunk(3) if rows == 3 * cols else (weight,)
