"""Greedy choice: the member that helps most, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labrecon.learners.exchange import ExchangeResult

__all__ = ["greedy"]


def greedy(
    size: int,
    k: int,
    loss: Callable[[Tensor], float],
    *,
    generator: torch.Generator,
    fixed: Tensor | None = None,
    candidates: int | None = None,
) -> ExchangeResult:
    """Choose ``k`` of ``size`` members, each time the one with the lowest loss.

    Nemhauser, Wolsey and Fisher 1978; with ``candidates`` only so many of the members, drawn anew
    each time, are tried (Mirzasoleiman et al. 2015). Start `exchange` from what it finds.

    Args:
        size: number of members.
        k: how many are chosen.
        loss: of a mask (size) of 0 and 1.
        generator: of the candidates.
        fixed: 1 for members that are chosen in any case.
        candidates: tried per choice; by default all.

    Raises:
        ValueError: ``k`` can not be chosen.

    Example:
        >>> costs = torch.tensor([3.0, 1.0, 2.0, 5.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> greedy(4, 2, lambda mask: float(mask @ costs), generator=generator).mask
        tensor([0., 1., 1., 0.])
    """
    mask = torch.zeros(size) if fixed is None else (fixed.flatten() > 0).float()
    if not 1 <= k <= size or int(mask.sum()) > k:
        raise ValueError(f"{k} can not be chosen from {size}, {int(mask.sum())} of them fixed")
    best, chosen = float("inf"), 0
    while int(mask.sum()) < k:
        free = (mask == 0).nonzero()[:, 0]
        if candidates is not None and candidates < len(free):
            free = free[torch.randperm(len(free), generator=generator)[:candidates]]
        losses = []
        for place in free.tolist():
            tried = mask.clone()
            tried[place] = 1.0
            losses.append(loss(tried))
        best = min(losses)
        mask[free[losses.index(best)]] = 1.0
        chosen += 1
    return ExchangeResult(mask, best, chosen)
