"""Schedule: numbers and modules that may differ from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from labrecon.constraint import CONSTRAINTS
from labrecon.problem import SolverError

__all__ = ["Schedule", "number_at", "pick"]

M = TypeVar("M", bound=nn.Module)


class Schedule(nn.Module):
    """A number per iteration: shared, one per layer, or a law of ``k``.

    Args:
        value: the initial number, or one per layer.
        layers: how many numbers (ignored where ``value`` is a sequence).
        constraint: what the numbers stay while they are learned: "positive", "unit" (in (0, 1)),
            "increasing", "decreasing" (both positive, from layer to layer), or None for methods
            whose published numbers may have any sign.
        law: ``law(value, k)`` for a law of the iteration.
        learn: whether gradients are on.

    Raises:
        SolverError: the constraint is unknown, or the numbers break it.

    Example:
        >>> tuple(float(Schedule([0.5, 0.25])(k)) for k in range(3))
        (0.5, 0.25, 0.25)
    """

    def __init__(
        self,
        value: float | Iterable[float],
        layers: int | None = None,
        *,
        constraint: str | None = "positive",
        law: Callable[[Tensor, int], Tensor] | None = None,
        learn: bool = False,
    ) -> None:
        super().__init__()
        numbers = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
        if layers is not None and len(numbers) == 1:
            numbers = numbers * layers
        if constraint is not None and constraint not in CONSTRAINTS:
            raise SolverError(f"constraint is one of {sorted(CONSTRAINTS)}, got {constraint!r}")
        self.constraint = None if constraint is None else CONSTRAINTS[constraint]()
        self.law = law
        start = torch.tensor(numbers, dtype=torch.float64)
        try:
            raw = start if self.constraint is None else self.constraint.right_inverse(start)
        except ValueError as error:
            raise SolverError(f"a schedule with constraint {constraint!r}: {error}") from error
        self.raw = nn.Parameter(raw.to(torch.get_default_dtype()), requires_grad=learn)

    def values(self) -> Tensor:
        """The numbers of all layers, before the law."""
        raw: Tensor = self.raw
        return raw if self.constraint is None else self.constraint(raw)

    def __call__(self, k: int) -> Tensor:
        """The number of iteration ``k``; the last one is repeated past the end."""
        raw, layer = self.raw, min(k, len(self.raw) - 1)
        if self.constraint is None:
            value = raw[layer]
        elif self.constraint.separable:
            value = self.constraint(raw[layer])
        else:
            value = self.values()[layer]
        return value if self.law is None else self.law(value, k)


def number_at(value: float | Schedule, k: int) -> Tensor | float:
    """The number of iteration ``k``."""
    return value(k) if isinstance(value, Schedule) else value


def pick(module: M | nn.ModuleList, k: int) -> M:
    """The module of layer ``k``: itself if shared, the ``k``-th of a list (the last repeats)."""
    if isinstance(module, nn.ModuleList):
        chosen: Any = module[min(k, len(module) - 1)]
        return chosen
    return module
