"""Fewer views: for experiments about how many are needed."""

from __future__ import annotations

from labrecon.instrument import Scan, StepError
from labrecon_ct.geometry import CTGeometry

__all__ = ["subset"]


def subset(scan: Scan, *, every: int = 4, start: int = 0, stop: int | None = None) -> Scan:
    """Keep the views ``start, start + every, …`` below ``stop``.

    Args:
        scan: any.
        every: distance of the views that are kept.
        start: the first.
        stop: where to end, all views by default.

    Raises:
        StepError: no view is left.
    """
    geometry = scan.geometry
    assert isinstance(geometry, CTGeometry)
    views = len(geometry.angles)
    chosen = list(range(views))[start:stop:every] if every >= 1 else []
    if not chosen:
        raise StepError(f"start {start}, stop {stop}, every {every} keep none of {views} views")
    weights = scan.weights
    if weights is not None and weights.ndim >= 2 and weights.shape[-2] == views:
        weights = weights[..., chosen, :]
    calibration = dict(scan.calibration)
    if "view_time" in calibration:
        calibration["view_time"] = calibration["view_time"][chosen]
    return scan.replace(
        data=scan.data[..., chosen, :].contiguous(),
        geometry=geometry.select(chosen),
        weights=weights,
        calibration=calibration,
    ).with_step("subset", every=every, start=start, kept=len(chosen), of=views)
