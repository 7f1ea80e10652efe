"""Exchange: which members of a subset to swap, judged by what the reconstruction makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ExchangeResult", "exchange"]

#: Share of proposals that move a member to a place nearby, as against anywhere.
NEARBY = 0.7


@dataclass(frozen=True)
class ExchangeResult:
    """The best mask that was found, its loss on the last batch, and how many swaps led there."""

    mask: Tensor
    loss: float
    accepted: int


def exchange(
    mask: Tensor,
    losses: Iterator[Callable[[Tensor], float]],
    *,
    rounds: int,
    generator: torch.Generator,
    fixed: Tensor | None = None,
    every: int = 40,
) -> ExchangeResult:
    """Improve a choice of ``k`` out of ``n`` by swaps that lower a loss (Fedorov 1972).

    For choices whose members act together, such as k-space lines under parallel imaging: the
    derivative by a member's weight sees what more of that member would bring, not what its
    neighbours then need not bring. Each swap is judged by the whole reconstruction instead.

    Args:
        mask: where to start, 0 and 1.
        losses: functions of a mask; a new one, with another batch of objects, is drawn after
            ``every`` rounds. With the same noise for each mask, or luck decides.
        rounds: swaps that are tried.
        generator: of the proposals.
        fixed: 1 where a member always stays.
        every: rounds per batch.

    Raises:
        ValueError: the mask is not 0 and 1, or nothing in it can be swapped.

    Example:
        >>> wanted = torch.tensor([1.0, 0.0, 1.0, 0.0])
        >>> def loss(mask: Tensor) -> float:
        ...     return float((mask - wanted).square().sum())
        >>> start = torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> exchange(start, iter([loss]), rounds=20, generator=generator).mask
        tensor([1., 0., 1., 0.])
    """
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask of 0 and 1 is improved by swaps; harden a relaxed one first")
    shape, best = mask.shape, mask.detach().flatten().clone()
    held = torch.zeros_like(best) if fixed is None else fixed.flatten().to(best)
    if not bool(((best > 0) & (held == 0)).any()) or bool((best > 0).all()):
        raise ValueError("nothing can be swapped: every member is fixed, or everything is chosen")
    loss, value, accepted = next(losses), 0.0, 0
    for round_ in range(rounds):
        if round_ % every == 0:
            loss = loss if round_ == 0 else next(losses, loss)
            value = loss(best.reshape(shape))
        member, place = _proposal(best, held, generator)
        candidate = best.clone()
        candidate[member], candidate[place] = 0.0, 1.0
        found = loss(candidate.reshape(shape))
        if found < value:
            best, value, accepted = candidate, found, accepted + 1
    return ExchangeResult(best.reshape(shape), value, accepted)


def _proposal(best: Tensor, held: Tensor, generator: torch.Generator) -> tuple[int, int]:
    members = ((best > 0) & (held == 0)).nonzero()[:, 0]
    places = (best == 0).nonzero()[:, 0]
    member = members[torch.randint(len(members), (), generator=generator)]
    if float(torch.rand((), generator=generator)) < NEARBY:
        near = (1.0 + (places - member).abs().double()) ** -1.5
        place = places[torch.multinomial(near, 1, generator=generator)[0]]
    else:
        place = places[torch.randint(len(places), (), generator=generator)]
    return int(member), int(place)
