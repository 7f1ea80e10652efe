"""Rings: faint offsets of single detector columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.redundancy import coverage
from labrecon_ct.steps.requirements import not_applicable, require_integrals

__all__ = ["rings"]


def rings(scan: Scan, *, size: int = 9, least_views: int = 90) -> Scan:
    """Remove stripes from sinograms by sorting (Vo, Atwood and Drakopoulos 2018, algorithm 3).

    Each column is sorted by value, the sorted image is smoothed along the columns by a median,
    and the order is undone: neighbouring columns see the same distribution of values unless one
    of them answers differently. Only the mean change of each column is kept, so that features
    of the object stay sharp. Not for few views, nor for stripes wider than half of ``size``.

    Args:
        scan: line integrals.
        size: columns of the median, odd.
        least_views: fewer views are left as they are.

    Raises:
        StepError: the size is even or below 3.
    """
    require_integrals(scan, "rings")
    if size < 3 or size % 2 == 0:
        raise StepError(f"size is an odd number of columns from 3 on, got {size}")
    views, columns = scan.data.shape[-2:]
    if views < least_views or columns <= size:
        return not_applicable(
            scan, "rings", f"{views} views × {columns} columns are too few to tell a ring"
        )
    arc = coverage(torch.tensor(scan.geometry.angles))  # type: ignore[attr-defined]
    if arc < 0.9 * math.pi:
        # Seen from few sides only, neighbouring columns differ by the object itself.
        return not_applicable(scan, "rings", f"the views span {math.degrees(arc):.0f}° only")
    offset = torch.stack([_offsets(s, size) for s in scan.data.reshape(-1, views, columns)])
    offset = offset.reshape(*scan.data.shape[:-2], 1, columns)
    return scan.replace(data=scan.data - offset).with_step(
        "rings",
        method="sorting (Vo et al. 2018)",
        size=size,
        removed_rms=float(offset.square().mean().sqrt()),
        largest=float(offset.abs().max()),
    )


def _offsets(sinogram: Tensor, size: int) -> Tensor:
    """The offset of each column ``(column,)``."""
    from scipy.ndimage import median_filter

    ordered = sinogram.sort(0).values
    smooth = median_filter(ordered.numpy(), size=(1, size), mode="reflect")
    return (ordered - torch.from_numpy(smooth)).mean(0)
