"""Whether a scan holds raw counts or line integrals."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Scan
from labrecon_ct.geometry import CTGeometry

__all__ = ["StepError", "geometry_of", "holds_counts", "median_filter", "require_integrals"]


class StepError(ValueError):
    """A preparation step can not work on this scan."""


def holds_counts(scan: Scan) -> bool:
    """Whether the data are raw detector counts."""
    return scan.provenance.get("quantity") == "counts"


def require_integrals(scan: Scan, step: str) -> None:
    """Raise `StepError` if the data are still raw counts."""
    if holds_counts(scan):
        raise StepError(f"{step} works on line integrals: put flat_field before it")


def geometry_of(scan: Scan) -> CTGeometry:
    """The scan's CT geometry."""
    if not isinstance(scan.geometry, CTGeometry):
        raise StepError(f"a CT scan was expected, its geometry is {type(scan.geometry).__name__}")
    return scan.geometry


def median_filter(values: Tensor, width: int, axis: int) -> Tensor:
    """Running median of odd ``width`` along an axis, edges repeated."""
    moved = values.movedim(axis, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    padded = torch.nn.functional.pad(flat, (width // 2, width // 2), mode="replicate")
    medians = [chunk.unfold(-1, width, 1).median(-1).values for chunk in padded.split(4096)]
    return torch.cat(medians).reshape(moved.shape).movedim(-1, axis)
