"""Schedule: numbers and modules that may differ from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from labrecon.problem import SolverError

__all__ = ["Schedule", "pick"]

M = TypeVar("M", bound=nn.Module)


class Schedule(nn.Module):
    """A number per iteration: shared, one per layer, or a law of ``k``.

    Args:
        value: the initial number, or one per layer.
        layers: how many numbers (ignored where ``value`` is a sequence).
        positive: keep ``exp``-parametrised positivity; off for methods whose published weights
            are negative.
        law: ``law(value, k)`` for a law of the iteration.
        learn: whether gradients are on.
    """

    def __init__(
        self,
        value: float | Iterable[float],
        layers: int | None = None,
        *,
        positive: bool = True,
        law: Callable[[Tensor, int], Tensor] | None = None,
        learn: bool = False,
    ) -> None:
        super().__init__()
        numbers = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
        if layers is not None and len(numbers) == 1:
            numbers = numbers * layers
        if positive and min(numbers) <= 0:
            raise SolverError(f"a positive schedule needs positive numbers, got {numbers}")
        start = torch.tensor(numbers)
        self.positive = positive
        self.law = law
        self.raw = nn.Parameter(start.log() if positive else start, requires_grad=learn)

    def __call__(self, k: int) -> Tensor:
        """The number of iteration ``k``; the last one is repeated past the end."""
        raw = self.raw[min(k, len(self.raw) - 1)]
        value = raw.exp() if self.positive else raw
        return value if self.law is None else self.law(value, k)


def pick(module: M | nn.ModuleList, k: int) -> M:
    """The module of layer ``k``: itself if shared, the ``k``-th of a list (the last repeats)."""
    if isinstance(module, nn.ModuleList):
        chosen: Any = module[min(k, len(module) - 1)]
        return chosen
    return module
