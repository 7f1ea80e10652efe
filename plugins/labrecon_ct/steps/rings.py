"""Ring artefacts: columns whose gain the flat field got wrong."""

from __future__ import annotations

import torch

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, median_filter, require_integrals

__all__ = ["rings"]


def rings(scan: Scan, *, width: int = 21) -> Scan:
    """Suppress stripes of the sinogram by sorting (Vo, Atwood and Drakopoulos 2018, algorithm 3).

    Each column is sorted by value; a running median across columns removes what stands out at
    equal rank; the columns are put back in order. Leaves edges of the object alone; does not
    mend dead columns (see `bad_pixels`).

    Args:
        scan: line integrals ``([row,] angle, column)``.
        width: of the median in columns (odd); wider removes wider stripes.

    Raises:
        StepError: ``width`` is impossible, or the data are raw counts.
    """
    require_integrals(scan, "rings")
    if width < 3 or width % 2 == 0:
        raise StepError(f"width must be odd and at least 3, got {width}")
    data = scan.data
    if data.shape[-1] < 2 * width:
        return scan.with_step("rings", applied=False, why=f"fewer than {2 * width} columns")
    ordered, rank = data.sort(dim=-2)
    smooth = median_filter(ordered, width, -1)
    result = torch.zeros_like(data).scatter(-2, rank, smooth)
    change = float((result - data).square().mean().sqrt())
    return scan.replace(data=result).with_step("rings", width=width, rms_change=change)
