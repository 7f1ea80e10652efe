"""Zingers: single pixels hit by a stray photon in single views."""

from __future__ import annotations

import torch

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, median_filter

__all__ = ["zingers"]


def zingers(scan: Scan, *, threshold: float = 8.0, width: int = 5) -> Scan:
    """Replace samples that stick out of their detector neighbourhood by its running median.

    A sample goes if it differs from the medians over ``width`` columns *and* over ``width`` views
    by more than ``threshold`` robust standard deviations: edges of the object stick out of one of
    them at most.

    Args:
        scan: counts or line integrals ``([row,] angle, column)``.
        threshold: in robust standard deviations.
        width: of the medians (odd).

    Raises:
        StepError: an option is impossible.
    """
    if width < 3 or width % 2 == 0 or not threshold > 0:
        raise StepError("width must be odd and at least 3, threshold positive")
    data = scan.data
    if min(data.shape[-2:]) < 2 * width:
        why = f"fewer than {2 * width} views or columns"
        return scan.with_step("zingers", applied=False, why=why)
    hit = torch.ones_like(data, dtype=torch.bool)
    for axis in (-1, -2):
        off = (data - median_filter(data, width, axis)).abs()
        sample = off.flatten()[:: max(1, off.numel() // 10**6)]
        hit &= off > threshold * 1.4826 * sample.median().clamp_min(1e-12)
    repaired = torch.where(hit, median_filter(data, width, -2), data)
    share = float(hit.float().mean())
    if share > 0.02:
        return scan.with_step(
            "zingers", applied=False, why=f"{share:.1%} of the samples stick out: not zingers"
        )
    return scan.replace(data=repaired).with_step("zingers", replaced=int(hit.sum()))
