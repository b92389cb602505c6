"""Which glimpses go well together: plans of several crops, each place counted once.

The best single glimpse again and again is no good plan: what it leaves out may fit no other crop.
So a policy's warm start (`learning.warm_start`) looks for the best set of as many glimpses as are
left, and takes the first of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Planner(nn.Module):
    """Plans made of A crops, of which each shows each of P places more or less well.

    detail: float32 [A, P], at least 0, of which 0 does not show the place. A plan gains, over all
    places, what the place has to give times the detail of whichever of its crops shows it best.
    """

    def __init__(self, detail: Tensor) -> None:
        super().__init__()
        detail = detail.round(decimals=4)
        # Few details differ, because places and crops lie on grids. So what a crop adds to others,
        # a sum over places of how much better it shows them, is a product of two matrices that
        # say which details it reaches and which the others do not.
        levels = detail[detail > 0].unique()[:, None]
        steps = levels.diff(dim=0, prepend=levels.new_zeros(1, 1))
        reached = ((detail[:, None] >= levels) * steps).flatten(1)
        for name, values in (("detail", detail), ("_levels", levels), ("_reached", reached)):
            self.register_buffer(name, values, persistent=False)
        self.detail: Tensor
        self._levels: Tensor
        self._reached: Tensor

    def worth(self, gains: Tensor, *, num_glimpses: int, sweeps: int = 1) -> Tensor:
        """Returns what the best plan found is worth with each crop in it, of gains [B, P]: float32
        [B, A].

        Plans of `num_glimpses` crops are built greedily and then improved crop by crop, `sweeps`
        times. A crop's worth is that of the plan in which it takes the place of whichever crop is
        missed least; so all crops of the plan itself are worth the same, and most.
        """
        plan = torch.zeros(len(gains), 0, dtype=torch.int64, device=gains.device)
        for _ in range(num_glimpses):
            best = self._with_each(gains, plan).argmax(dim=1, keepdim=True)
            plan = torch.cat((plan, best), dim=1)
        for _ in range(sweeps):
            for member in range(num_glimpses):
                plan[:, member] = self._with_each(gains, _without(plan, member)).argmax(dim=1)
        members = range(num_glimpses)
        replaced = [self._with_each(gains, _without(plan, member)) for member in members]
        return torch.stack(replaced).amax(dim=0)

    def _with_each(self, gains: Tensor, plan: Tensor) -> Tensor:
        """Returns what plans [B, K] gain with each crop added: [B, A]."""
        shown = torch.zeros_like(gains)
        for crop in plan.unbind(dim=1):
            shown = shown.maximum(self.detail[crop])
        not_reached = (gains[:, None] * (shown[:, None] < self._levels)).flatten(1)
        return (gains * shown).sum(dim=1, keepdim=True) + not_reached @ self._reached.T


def _without(plan: Tensor, member: int) -> Tensor:
    return torch.cat((plan[:, :member], plan[:, member + 1 :]), dim=1)
