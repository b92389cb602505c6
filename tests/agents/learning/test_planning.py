"""Plans of several crops: each place counts once, and together they gain most."""

from __future__ import annotations

from itertools import combinations

import torch

from canvit_agents.learning.planning import Planner


def best_by_trying_all(gains: torch.Tensor, detail: torch.Tensor, *, num_glimpses: int) -> float:
    plans = combinations(range(len(detail)), num_glimpses)
    return max(float((gains * detail[list(plan)].amax(dim=0)).sum()) for plan in plans)


def windows(length: int, width: int) -> torch.Tensor:
    """Detail of crops of `width` places at every offset of a line."""
    starts = torch.arange(length - width + 1)
    places = torch.arange(length)
    return ((places >= starts[:, None]) & (places < starts[:, None] + width)).float()


def test_a_plan_covers_what_the_best_single_glimpse_would_leave_in_pieces() -> None:
    # Twelve places, crops of six: the best one lies in the middle, and beside it nothing fits.
    gains = torch.tensor([1.0, 1, 1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1, 1, 1])
    detail = windows(12, 6)
    assert int((detail @ gains).argmax()) == 3
    worth = Planner(detail).worth(gains[None], num_glimpses=2)[0]
    assert sorted(worth.topk(2).indices.tolist()) == [0, 6]
    torch.testing.assert_close(worth.max(), gains.sum())
    # With the middle one, half of the rest is lost.
    torch.testing.assert_close(worth[3], gains[3:9].sum() + gains[:3].sum())


def test_the_last_glimpse_is_worth_what_it_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    detail = windows(8, 3) * (0.5 + torch.arange(6)[:, None] / 10)
    gains = torch.randn(5, 8, generator=generator)
    worth = Planner(detail).worth(gains, num_glimpses=1)
    torch.testing.assert_close(worth, gains @ detail.T, rtol=0, atol=1e-5)


def test_the_crop_that_shows_a_place_best_decides_what_it_gains() -> None:
    detail = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.25]])
    worth = Planner(detail).worth(torch.tensor([[4.0, 1.0, 2.0]]), num_glimpses=2)[0]
    # Both together gain 4 + 0.5; the last crop beside the second, 4 + 0.5, too.
    torch.testing.assert_close(worth, torch.tensor([4.5, 4.5, 4.5]))
    worth = Planner(detail).worth(torch.tensor([[4.0, 1.0, 0.4]]), num_glimpses=2)[0]
    torch.testing.assert_close(worth, torch.tensor([4.5, 4.5, 4.1]))


def test_plans_come_close_to_the_best_of_all_sets() -> None:
    generator = torch.Generator().manual_seed(1)
    detail = windows(16, 5) * (1 + torch.rand(12, 1, generator=generator))
    gains = torch.rand(20, 16, generator=generator)
    planner = Planner(detail)
    found = planner.worth(gains, num_glimpses=3, sweeps=2).amax(dim=1)
    best = torch.tensor([best_by_trying_all(g, planner.detail, num_glimpses=3) for g in gains])
    assert bool((found <= best + 1e-5).all())
    assert float((found / best).mean()) > 0.97
