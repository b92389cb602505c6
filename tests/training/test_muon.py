"""Muon: updates are orthogonal matrices, and they go downhill."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from canvit_gym.training.muon import Muon, orthogonalise


def matrix_of(rows: int, cols: int, singular_values: Tensor, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(cols, cols, generator=generator))
    n = len(singular_values)
    return u[:, :n] @ singular_values.diag() @ v[:, :n].T


@pytest.mark.parametrize(("rows", "cols"), [(24, 24), (64, 16), (16, 64)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_singular_values_come_near_one(rows: int, cols: int, size: float) -> None:
    values = torch.linspace(0.05, 1, min(rows, cols)) * size
    matrix = matrix_of(rows, cols, values)
    result = orthogonalise(matrix[None])[0]
    assert result.shape == matrix.shape
    after = torch.linalg.svdvals(result)
    # Five quintic steps trade exactness for speed: the band around one is their known limit.
    assert after.min() > 0.65 and after.max() < 1.25
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ result @ vt.T  # diagonal where the singular vectors are kept
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-2
    assert inner.diagonal().min() > 0.65


def test_a_stack_is_its_matrices_one_by_one() -> None:
    stack = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))
    together = orthogonalise(stack)
    for i in range(3):
        torch.testing.assert_close(together[i], orthogonalise(stack[i : i + 1])[0])


def test_a_zero_gradient_does_nothing() -> None:
    assert not orthogonalise(torch.zeros(2, 4, 6)).any()
    weight = torch.nn.Parameter(torch.ones(4, 6))
    unused = torch.nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.zeros(4, 6)
    Muon([weight, unused], lr=0.1).step()
    assert (weight == 1).all() and (unused == 1).all()


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_it_descends_a_quadratic(shape: tuple[int, int]) -> None:
    goal = matrix_of(*shape, torch.linspace(0.5, 1.5, 16))
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Muon([weight], lr=0.05, momentum=0.9)

    def loss() -> Tensor:
        return (weight - goal).square().sum()

    start = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.05 * start


def test_a_fused_qkv_is_three_maps() -> None:
    gradients = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients[1] *= 100  # one map's large gradient must not drown the others'
    fused = torch.nn.Parameter(torch.zeros(24, 8))
    parts = [torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    fused.grad = gradients.flatten(0, 1)
    for part, gradient in zip(parts, gradients, strict=True):
        part.grad = gradient.clone()
    Muon([fused], lr=0.1, weight_decay=0.1).step()
    Muon(parts, lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(fused.detach(), torch.cat([part.detach() for part in parts]))
    assert torch.linalg.matrix_norm(parts[0].detach()) > 0.1


def test_weight_decay_shrinks() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_its_state_can_be_saved() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 4, generator=generator))
    optimizer = Muon([weight], lr=0.1)
    gradients = torch.randn(3, 6, 4, generator=generator)
    weight.grad = gradients[0]
    optimizer.step()
    saved, twin = copy.deepcopy(optimizer.state_dict()), torch.nn.Parameter(weight.detach().clone())
    continued = Muon([twin], lr=0.7)
    continued.load_state_dict(saved)
    for gradient in gradients[1:]:
        weight.grad, twin.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        continued.step()
    torch.testing.assert_close(twin, weight, rtol=0, atol=0)


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"\(3,\).* 2-D weights only"):
        Muon([torch.zeros(2, 2), torch.zeros(3)])
