"""What was measured and what was not, told to the data term."""

from __future__ import annotations

import torch

from labrecon import Scan
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["measured"]


def measured(scan: Scan) -> Scan:
    """Give samples of the Cartesian grid that were not measured weight 0.

    The forward model leaves them out by itself. With the weights they count neither in χ² nor in
    the statistics of the residual, where their zeros would look like a perfect fit.
    """
    geometry = geometry_of(scan)
    if geometry.mask is None:
        return not_applicable(scan, "measured", "every sample was measured")
    mask = (geometry.mask.tensor(torch.float32) != 0).float()
    # The coils stand between the frames and the grid.
    if mask.ndim > geometry.ndim:
        mask = mask.unsqueeze(-geometry.ndim - 1)
    weights = mask if scan.weights is None else mask * scan.weights
    return scan.replace(weights=weights).with_step("measured", share=float(mask.mean()))
