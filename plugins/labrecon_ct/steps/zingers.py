"""Zingers: single bright samples where a stray photon hit the camera."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.steps.requirements import has_counts, not_applicable, weights_of

__all__ = ["zingers"]


def zingers(scan: Scan, *, threshold: float = 8.0, window: int = 3) -> Scan:
    """Replace samples far brighter than their neighbours in time and along the detector.

    A sample is a zinger if it exceeds both the median over ``window`` neighbouring views and that
    over neighbouring columns by ``threshold`` robust deviations and by 10 % of the signal: an edge
    that moves with the object stands out in one of them only. It becomes the median in time and
    gets weight 0. Flats and darks are cleaned by their median over frames.

    Args:
        scan: counts (before flat_field, so that flats are cleaned too) or line integrals.
        threshold: in robust standard deviations.
        window: number of neighbouring views and columns, odd.

    Raises:
        StepError: the window is even or below 3.
    """
    if window < 3 or window % 2 == 0:
        raise StepError(f"window is an odd number of views from 3 on, got {window}")
    if scan.data.shape[-2] < window:
        return not_applicable(scan, "zingers", f"{scan.data.shape[-2]} views are too few")
    counts = has_counts(scan)
    # A zinger adds counts, and so lowers the line integral.
    signal = scan.data if counts else -scan.data
    in_time = _median(signal, -2, window)
    over_time = signal - in_time
    over_columns = signal - _median(signal, -1, window)
    least = torch.minimum(over_time, over_columns)
    scale = 1.4826 * over_time.abs().median()
    size = in_time.abs() if counts else signal.abs().max()
    bad = (least > threshold * scale) & (least > 0.1 * size)
    data = torch.where(bad, in_time if counts else -in_time, scan.data)
    weights: Tensor | None = torch.where(bad, 0.0, weights_of(scan))
    calibration = dict(scan.calibration)
    cleaned: dict[str, Any] = {}
    if counts:
        for name in ("flats", "darks"):
            frames = calibration.get(name)
            if frames is not None and len(frames) >= 3:
                calibration[name], cleaned[name] = _clean_frames(frames, threshold)
    if not bool(bad.any()):
        weights = scan.weights
    return scan.replace(data=data, weights=weights, calibration=calibration).with_step(
        "zingers", samples=int(bad.sum()), of=bad.numel(), **cleaned
    )


def _median(values: Tensor, axis: int, window: int) -> Tensor:
    from scipy.ndimage import median_filter

    size = [1] * values.ndim
    size[axis] = window
    return torch.from_numpy(median_filter(values.numpy(), size=tuple(size), mode="nearest"))


def _clean_frames(frames: Tensor, threshold: float) -> tuple[Tensor, int]:
    middle = frames.median(0).values
    away = frames - middle
    scale = 1.4826 * away.abs().median()
    bad = (away > threshold * scale) & (away > 0.1 * middle)
    return torch.where(bad, middle, frames), int(bad.sum())
