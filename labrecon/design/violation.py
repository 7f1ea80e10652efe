"""What a value breaks, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["InfeasibleError", "Violation", "Violations"]


class InfeasibleError(ValueError):
    """No value can meet the constraint, or the value given is not a finite real array."""


@dataclass(frozen=True)
class Violation:
    """By how much a value breaks a rule: the largest excess, its unit, and at how many places."""

    amount: float
    unit: str = ""
    count: int = 1

    def __str__(self) -> str:
        places = "" if self.count == 1 else f" at {self.count} places"
        return f"{self.amount:.4g} {self.unit}".rstrip() + places


Violations = dict[str, Violation]
