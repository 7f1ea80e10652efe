"""Fixed points ``z = T(z)`` of maps between batches of real vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.solver import DivergenceError

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "Finder",
    "FixedPoint",
    "Picard",
    "find_fixed_point",
]


class ConvergenceWarning(UserWarning):
    """A fixed point was not found to the accuracy asked for."""


class ConvergenceError(ArithmeticError):
    """A fixed point was not found to the accuracy asked for, and that was to be an error."""


class Finder(Protocol):
    """How the next point follows from those that were tried; one object per search.

    Attributes:
        safeguarded: start anew from the best point where the residual has grown a lot.
    """

    safeguarded: bool

    def propose(self, z: Tensor, image: Tensor) -> Tensor:
        """The next point to try, from ``z`` and ``image = T(z)``, both ``(batch, n)``."""

    def forget(self, elements: Tensor) -> None:
        """Drop what is remembered of the batch elements where ``elements`` ``(batch,)`` is true."""


class Picard:
    """``z ← (1 − β) z + β T(z)``: the iteration of the solver itself.

    Converges wherever the solver does, as slowly as it does. Not for maps near the edge of
    contraction, where `Anderson` needs a small part of the iterations.
    """

    safeguarded = False

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def propose(self, z: Tensor, image: Tensor) -> Tensor:
        """The damped image."""
        return image if self.beta == 1 else torch.lerp(z, image, self.beta)

    def forget(self, elements: Tensor) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True)
class FixedPoint:
    """What `find_fixed_point` found.

    Attributes:
        z: the point of lowest residual of each batch element, ``(batch, n)``.
        residual: ``‖T(z) − z‖ / ‖T(z)‖`` of each.
        converged: whether each residual is within the tolerance, ``(batch,)``.
        iterations: evaluations of ``T``.
        contraction: the largest ``‖T(z) − T(z′)‖ / ‖z − z′‖`` of the last moves and all elements;
            None where nothing moved. It estimates the local Lipschitz constant from below; of
            Picard's iteration it is the ratio of successive residuals.
    """

    z: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int
    contraction: float | None

    @property
    def worst(self) -> float:
        """The largest residual of the batch."""
        return float(self.residual.max()) if len(self.residual) else 0.0

    @property
    def distance(self) -> float | None:
        """About how far the fixed point is, ``residual / (1 − contraction)``, relative to its size.

        From below, since the contraction is. None where no contraction below 1 was seen.
        """
        if self.contraction is None or self.contraction >= 1:
            return None
        return self.worst / (1 - self.contraction)


#: Moves over which the contraction is estimated.
_RECENT = 5
#: Growth of the residual at which a safeguarded search starts anew.
_GROWTH = 10.0


def find_fixed_point(
    apply: Map,
    z: Tensor,
    finder: Finder,
    *,
    iterations: int,
    tolerance: float,
    watch: Callable[[Tensor], object] | None = None,
) -> FixedPoint:
    """Look for ``z = T(z)`` from ``z`` ``(batch, n)``, each batch element for itself.

    An element whose residual is within the tolerance stays as it is, so that its result does not
    depend on the others. The point of lowest residual is returned, not the last.

    Args:
        apply: ``T``, on ``(batch, n)``.
        z: where to start.
        finder: `Picard`, `Anderson` or `Broyden`, a new one.
        iterations: the largest number of evaluations of ``T``.
        tolerance: of the relative residual ``‖T(z) − z‖ / ‖T(z)‖``.
        watch: called with each ``T(z)``.

    Raises:
        DivergenceError: an iterate is not finite.
    """
    tiny = torch.finfo(z.dtype).tiny
    least = torch.full(z.shape[:1], math.inf, dtype=z.dtype, device=z.device)
    best = best_image = z
    allowed = torch.full_like(least, _GROWTH)
    before: tuple[Tensor, Tensor] | None = None
    ratios: list[Tensor] = []
    for k in range(1, iterations + 1):
        image = apply(z)
        if watch is not None:
            watch(image)
        size = image.norm(dim=-1)
        residual = (image - z).norm(dim=-1) / size.clamp_min(tiny)
        better = (residual < least) & (least > tolerance)
        least = torch.where(better, residual, least)
        best = torch.where(better[:, None], z, best)
        best_image = torch.where(better[:, None], image, best_image)
        if before is not None:
            ratios = [*ratios[1 - _RECENT :], _ratio(z - before[0], image - before[1], size)]
        before = z, image
        found = least <= tolerance
        # One transfer for both.
        finite, done = torch.stack([residual.isfinite().all(), found.all()]).tolist()
        if not finite:
            raise DivergenceError(
                f"the state is not finite after iteration {k} (batch elements "
                f"{torch.nonzero(~residual.isfinite()).flatten().tolist()}): the map does not "
                "contract, its step size is too large, or the data hold impossible values"
            )
        if done:
            break
        z = finder.propose(z, image)
        if finder.safeguarded:
            lost = residual > allowed * least
            z = torch.where(lost[:, None], best_image, z)
            finder.forget(lost)
            # Ever more patience, lest the search goes in circles.
            allowed = torch.where(lost, 10 * allowed, allowed)
        z = torch.where(found[:, None], best, z)
    seen = torch.stack(ratios) if ratios else least.new_full((1, 1), math.nan)
    seen = seen[~seen.isnan()]
    contraction = float(seen.max()) if len(seen) else None
    return FixedPoint(best, least, least <= tolerance, k, contraction)


def _ratio(move: Tensor, response: Tensor, size: Tensor) -> Tensor:
    """``‖response‖ / ‖move‖`` per element, NaN where the move is lost in rounding."""
    length = move.norm(dim=-1)
    clear = length > 100 * torch.finfo(move.dtype).eps * size
    return torch.where(clear, response.norm(dim=-1) / torch.where(clear, length, 1.0), math.nan)
