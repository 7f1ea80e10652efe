"""Dead and stuck detector pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, median_filter, require_integrals

__all__ = ["bad_pixels"]


def bad_pixels(
    scan: Scan,
    *,
    threshold: float = 12.0,
    width: int = 9,
    columns: Sequence[int] = (),
) -> Scan:
    """Give bad detector pixels weight 0, and the value of their neighbours.

    A pixel is bad if its mean over the views is further than ``threshold`` robust standard
    deviations from the running median of its row, or if it never changes. Weighted methods ignore
    it; the neighbours' value is for direct methods, which know no weights.

    Args:
        scan: line integrals ``([row,] angle, column)``.
        threshold: in robust standard deviations of the difference to the median.
        width: of the running median, in columns (odd).
        columns: columns known to be bad, in all rows.

    Raises:
        StepError: more than a fifth of the pixels would go, or an option is impossible.
    """
    require_integrals(scan, "bad_pixels")
    if width < 3 or width % 2 == 0 or not threshold > 0:
        raise StepError("width must be odd and at least 3, threshold positive")
    data = scan.data
    if data.shape[-1] < 2 * width:
        return scan.with_step("bad_pixels", applied=False, why=f"fewer than {2 * width} columns")
    mean = data.mean(-2)
    off = (mean - median_filter(mean, width, -1)).abs()
    scale = 1.4826 * off.median(-1, keepdim=True).values.clamp_min(1e-9)
    bad = off > threshold * scale
    if data.shape[-2] > 2:
        bad |= data.std(-2) == 0
    for column in columns:
        if not -data.shape[-1] <= column < data.shape[-1]:
            raise StepError(f"there is no column {column} among {data.shape[-1]}")
        bad[..., column] = True
    if float(bad.float().mean()) > 0.2:
        raise StepError(
            f"{float(bad.float().mean()):.0%} of the pixels look bad at threshold {threshold:g}: "
            "raise it, or look at the flats"
        )
    weights = torch.ones_like(data) if scan.weights is None else scan.weights
    weights = torch.where(bad[..., None, :], 0.0, weights)
    return scan.replace(data=_filled(data, bad), weights=weights).with_step(
        "bad_pixels", found=int(bad.sum()), of=bad.numel()
    )


def _filled(data: Tensor, bad: Tensor) -> Tensor:
    """Bad columns replaced by the line between the nearest good ones of the row."""
    result = data.reshape(-1, *data.shape[-2:]).clone()
    for row, mask in zip(result, bad.reshape(-1, bad.shape[-1]), strict=True):
        good = (~mask).nonzero().squeeze(-1)
        for column in mask.nonzero().squeeze(-1).tolist():
            place = int(torch.searchsorted(good, column))
            left = good[max(place - 1, 0)]
            right = good[min(place, len(good) - 1)]
            share = (column - left) / (right - left).clamp_min(1)
            share = share.clamp(0, 1).to(row.dtype)
            row[:, column] = (1 - share) * row[:, left] + share * row[:, right]
    return result.reshape(data.shape)
