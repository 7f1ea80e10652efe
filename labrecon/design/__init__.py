"""Feasible sets: what the hardware can do with an acquisition parameter."""

from labrecon.design.box import Binary, Box, NonNegative, Quantised
from labrecon.design.feasible_set import FeasibleSet, Intersection
from labrecon.design.spacing import MinimumSpacing
from labrecon.design.sums import Budget, Simplex, Subset
from labrecon.design.violation import InfeasibleError, Violation, Violations

__all__ = [
    "Binary",
    "Box",
    "Budget",
    "FeasibleSet",
    "InfeasibleError",
    "Intersection",
    "MinimumSpacing",
    "NonNegative",
    "Quantised",
    "Simplex",
    "Subset",
    "Violation",
    "Violations",
]
