"""What a step requires of a scan, and the record of one that has nothing to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.geometry import CTGeometry

__all__ = [
    "geometry_of",
    "has_counts",
    "not_applicable",
    "require_integrals",
    "weights_of",
]


def has_counts(scan: Scan) -> bool:
    """Whether the data are raw counts rather than line integrals."""
    return scan.provenance.get("quantity") == "counts"


def require_integrals(scan: Scan, step: str) -> None:
    """Raise `StepError` if the data are still raw counts."""
    if has_counts(scan):
        raise StepError(f"{step} works on line integrals: put flat_field before it")


def geometry_of(scan: Scan) -> CTGeometry:
    """The scan's CT geometry."""
    if not isinstance(scan.geometry, CTGeometry):
        raise StepError(f"a CT scan was expected, its geometry is {type(scan.geometry).__name__}")
    return scan.geometry


def not_applicable(scan: Scan, step: str, why: str, **values: Any) -> Scan:
    """The scan as it is, with a record that the step did nothing."""
    return scan.with_step(step, result=f"not applicable: {why}", **values)


def weights_of(scan: Scan) -> Tensor:
    """The scan's weights in the shape of its data; ones where it has none. A copy."""
    if scan.weights is None:
        return torch.ones_like(scan.data)
    return torch.broadcast_to(scan.weights, scan.data.shape).to(scan.data.dtype).clone()
