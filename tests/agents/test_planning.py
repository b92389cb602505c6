"""Plans of several crops: each place counts once, and together they gain most."""

from __future__ import annotations

from itertools import combinations

import torch

from agents.planning import worth_in_plan


def best_by_trying_all(values: torch.Tensor, ranks: torch.Tensor, *, num_glimpses: int) -> float:
    def total(plan: tuple[int, ...]) -> float:
        gained = 0.0
        for place in range(values.shape[1]):
            showing = [a for a in plan if ranks[a, place] > 0]
            if showing:
                gained += float(values[max(showing, key=lambda a: ranks[a, place]), place])
        return gained

    return max(total(plan) for plan in combinations(range(len(values)), num_glimpses))


def windows(length: int, width: int) -> torch.Tensor:
    """Ranks of crops of `width` places at every offset of a line."""
    starts = torch.arange(length - width + 1)
    places = torch.arange(length)
    return ((places >= starts[:, None]) & (places < starts[:, None] + width)).float()


def test_a_plan_covers_what_the_best_single_glimpse_would_leave_in_pieces() -> None:
    # Twelve places, crops of six: the best one lies in the middle, and beside it nothing fits.
    gains = torch.tensor([1.0, 1, 1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1, 1, 1])
    ranks = windows(12, 6)
    values = (gains * ranks)[None]
    assert int(values[0].sum(dim=1).argmax()) == 3
    worth = worth_in_plan(values, ranks, num_glimpses=2)[0]
    assert sorted(worth.topk(2).indices.tolist()) == [0, 6]
    torch.testing.assert_close(worth.max(), gains.sum())
    # With the middle one, half of the rest is lost.
    torch.testing.assert_close(worth[3], gains[3:9].sum() + gains[:3].sum())


def test_the_last_glimpse_is_worth_what_it_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = windows(8, 3)
    values = torch.randn(5, 6, 8, generator=generator) * ranks
    torch.testing.assert_close(
        worth_in_plan(values, ranks, num_glimpses=1), values.sum(dim=2), rtol=0, atol=1e-5
    )


def test_the_better_ranked_crop_decides_even_where_it_gains_less() -> None:
    ranks = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    values = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])
    worth = worth_in_plan(values, ranks, num_glimpses=2)
    torch.testing.assert_close(worth.max(), torch.tensor(4.0))  # the coarse crop twice
    torch.testing.assert_close(worth, torch.tensor([[4.0, 3.0]]))


def test_plans_come_close_to_the_best_of_all_sets() -> None:
    generator = torch.Generator().manual_seed(1)
    ranks = windows(16, 5) * (1 + torch.rand(12, 1, generator=generator))
    values = torch.rand(20, 1, 16, generator=generator) * (ranks > 0)
    found = worth_in_plan(values, ranks, num_glimpses=3, sweeps=2).amax(dim=1)
    best = torch.tensor([best_by_trying_all(v, ranks, num_glimpses=3) for v in values])
    assert bool((found <= best + 1e-5).all())
    assert float((found / best).mean()) > 0.97
