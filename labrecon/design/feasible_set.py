"""A set of values that the hardware can realise, and the intersection of several."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon.design.violation import InfeasibleError, Violation, Violations

__all__ = ["FeasibleSet", "Intersection"]


class FeasibleSet(nn.Module):
    """Values that the instrument can realise.

    `project` is the Euclidean projection onto the (relaxed, mostly convex) set; it is what an
    optimiser calls after each step. `harden` goes to the values that the hardware loads: binary,
    quantised, the best ``k``. The two agree unless a set says otherwise. Sets along an axis treat
    all other axes as a batch. ``a & b`` is the intersection.

    Args:
        unit: of the parameter, for reports.

    Example:
        >>> from labrecon.design import Box, Budget
        >>> (Box(0, 1, unit="s") & Budget(1.5)).project(torch.tensor([2.0, 0.9, -1.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """

    def __init__(self, unit: str = "") -> None:
        super().__init__()
        self.unit = unit

    def project(self, value: Tensor) -> Tensor:
        """The nearest feasible value.

        Raises:
            InfeasibleError: no value of this shape is feasible, or ``value`` is not a finite
                floating-point array.
        """
        raise TypeError(f"{type(self).__name__} does not define project")

    def violations(self, value: Tensor) -> Violations:
        """What ``value`` breaks, by how much; empty if it is feasible to rounding."""
        raise TypeError(f"{type(self).__name__} does not define violations")

    def harden(self, value: Tensor) -> Tensor:
        """The realisable value nearest to a relaxed one."""
        return self.project(value)

    def contains(self, value: Tensor, tolerance: float = 1e-6) -> bool:
        """Whether no rule is broken by more than ``tolerance``."""
        return all(v.amount <= tolerance for v in self.violations(value).values())

    def __and__(self, other: FeasibleSet) -> Intersection:
        return Intersection(self, other)

    def _broken(self, rule: str, excess: Tensor, rounding: Tensor | float = 0.0) -> Violations:
        """``rule`` where ``excess`` is above what rounding explains."""
        excess = excess.detach()
        over = excess > rounding
        if not bool(over.any()):
            return {}
        return {rule: Violation(float(excess[over].max()), self.unit, int(over.sum()))}

    def _not_finite(self, value: Tensor) -> Violations:
        return self._broken("not finite", torch.where(torch.isfinite(value), -torch.inf, torch.inf))

    def _require_finite(self, value: Tensor) -> None:
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise InfeasibleError(
                f"{type(self).__name__}: expected finite floating-point numbers, got "
                f"{int((~torch.isfinite(value)).sum())} of {value.numel()} not finite, "
                f"dtype {value.dtype}"
            )

    def _wide(self, value: Tensor) -> Tensor:
        """``value`` in double precision, where sums along an axis keep what ``value`` holds."""
        self._require_finite(value)
        # Apple's GPUs have no double precision.
        return value.float() if value.device.type == "mps" else value.double()


class Intersection(FeasibleSet):
    """Values in every one of several sets; `project` is Dykstra's (1983) alternating projection.

    The nearest value is found to rounding where all sets are convex; `MinimumSpacing` is not
    (the order of the positions is free), so that it gives a feasible value near the nearest.
    `harden` projects and then hardens for each set in turn: name the discrete set last, and look
    at `violations`, since rounding up may break a budget.

    Args:
        sets: the sets; nested intersections are flattened.
        iterations: most rounds of projections.
    """

    def __init__(self, *sets: FeasibleSet, iterations: int = 2000) -> None:
        wrong = [s for s in sets if not isinstance(s, FeasibleSet)]
        if not sets or wrong:
            raise TypeError(f"an intersection is of feasible sets, got {wrong or 'none'}")
        super().__init__(sets[0].unit)
        self.parts: list[FeasibleSet] = []
        for s in sets:
            self.parts += s.parts if isinstance(s, Intersection) else [s]
        self.iterations = iterations

    def project(self, value: Tensor) -> Tensor:
        """The nearest value in all sets.

        Raises:
            InfeasibleError: the alternating projections do not meet: no value is in all sets.
        """
        x = self._wide(value)
        size = 1 + float(x.detach().abs().max()) if x.numel() else 1.0
        corrections = [torch.zeros_like(x) for _ in self.parts]
        for _ in range(self.iterations):
            # The iterate may rest for some rounds before it moves on; the corrections do not.
            change = 0.0
            for i, part in enumerate(self.parts):
                moved = x + corrections[i]
                x = part.project(moved)
                change = max(change, float((moved - x - corrections[i]).detach().abs().max()))
                corrections[i] = moved - x
            if change <= 1e-13 * size:
                break
        if not self.contains(x, 1e-6 * size):
            raise InfeasibleError(
                f"no value meets all rules, or {self.iterations} rounds do not reach it: "
                + ", ".join(f"{rule} {text}" for rule, text in self.violations(x).items())
            )
        return x.to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """The violations of all sets."""
        return {
            f"{type(part).__name__}: {rule}": violation
            for part in self.parts
            for rule, violation in part.violations(value).items()
        }

    def harden(self, value: Tensor) -> Tensor:
        """Projected, then hardened for each set in turn."""
        value = self.project(value)
        for part in self.parts:
            value = part.harden(value)
        return value
