"""Which glimpses go well together: plans of several crops, each place counted once.

The best single glimpse again and again is no good plan: what it leaves out may fit no other crop.
So a policy's warm start (`agents.warm_start`) looks for the best set of as many glimpses as are
left, and takes the first of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def worth_in_plan(values: Tensor, ranks: Tensor, *, num_glimpses: int, sweeps: int = 1) -> Tensor:
    """What the best plan found is worth with each action in it: float32 [B, A].

    values: float32 [B, A, P], what each of A crops would gain at each of P places. ranks: float32
    [A, P], how well each crop shows each place, 0 where it does not. Of several crops that show a
    place, the best ranked one decides what the plan gains there; a plan gains the sum over places.

    Plans of `num_glimpses` crops are built greedily and then improved crop by crop, `sweeps` times.
    An action's worth is that of the plan in which it takes the place of whichever crop is missed
    least; so all crops of the plan itself are worth the same, and most.
    """
    plan = values.new_zeros(len(values), 0, dtype=torch.int64)
    for _ in range(num_glimpses):
        plan = torch.cat((plan, _with_each(values, ranks, plan).argmax(dim=1, keepdim=True)), dim=1)
    for _ in range(sweeps):
        for member in range(num_glimpses):
            found = _with_each(values, ranks, _without(plan, member)).argmax(dim=1)
            plan = plan.index_copy(1, torch.tensor([member]), found[:, None])
    members = range(num_glimpses)
    replaced = [_with_each(values, ranks, _without(plan, member)) for member in members]
    return torch.stack(replaced).amax(dim=0)


def _without(plan: Tensor, member: int) -> Tensor:
    return torch.cat((plan[:, :member], plan[:, member + 1 :]), dim=1)


def _with_each(values: Tensor, ranks: Tensor, plan: Tensor) -> Tensor:
    """What plans [B, K] gain with each action added: [B, A]."""
    rows = torch.arange(len(values))
    value, rank = values.new_zeros(len(values), values.shape[2]), ranks.new_zeros(ranks.shape[1])
    for action in plan.unbind(dim=1):
        better = ranks[action] > rank
        value = torch.where(better, values[rows, action], value)
        rank = torch.where(better, ranks[action], rank)
    added = (values - value[:, None]) * (ranks > rank.expand_as(value)[:, None])
    return value.sum(dim=1, keepdim=True) + added.sum(dim=2)
