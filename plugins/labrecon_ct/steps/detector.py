"""Crop and bin the detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.steps.requirements import has_counts, weights_of

__all__ = ["bin_detector", "crop"]


def crop(
    scan: Scan, *, columns: Sequence[int] | None = None, rows: Sequence[int] | None = None
) -> Scan:
    """Keep a part of the detector.

    Args:
        scan: any.
        columns: first and last + 1.
        rows: first and last + 1; parallel beams only, since a cone's rows are no slices.

    Raises:
        StepError: an empty or impossible range.
    """
    geometry = _angular(scan, "crop")
    left, right = _range(columns, geometry.columns, "columns")
    low, high = _range(rows, geometry.rows or 1, "rows")
    if (low, high) != (0, geometry.rows or 1) and geometry.beam == "cone":
        raise StepError("rows of a cone beam can not be cropped: they see tilted planes")
    changed = _rebuilt(
        geometry,
        columns=right - left,
        rows=None if geometry.rows is None else high - low,
        centre_offset=geometry.centre_column - left - (right - left - 1) / 2,
    )
    return _applied(scan, changed, lambda frames: frames[:, low:high, left:right]).with_step(
        "crop", columns=[left, right], rows=None if geometry.rows is None else [low, high]
    )


def bin_detector(scan: Scan, *, columns: int = 2, rows: int | None = None) -> Scan:
    """Add up neighbouring counts, or average line integrals; what does not fill a bin is dropped.

    Line integrals are averaged with their weights, so that bad pixels have no say; the weights add
    up, since the precision of an average is the sum of precisions. Weights of counts are averaged.

    Args:
        scan: any.
        columns: columns per bin.
        rows: rows per bin, as many as columns by default.

    Raises:
        StepError: bins larger than the detector, or rows of a cone beam that do not fill bins.
    """
    geometry = _angular(scan, "bin")
    rows = 1 if geometry.rows is None else columns if rows is None else rows
    wide, high = geometry.columns // max(columns, 1), (geometry.rows or 1) // max(rows, 1)
    if columns < 1 or rows < 1 or wide < 1 or high < 1:
        raise StepError(
            f"bins of {rows} × {columns} pixels do not fit a detector of {geometry.rows or 1} × "
            f"{geometry.columns}"
        )
    if geometry.beam == "cone" and high * rows != (geometry.rows or 1):
        raise StepError(
            f"{geometry.rows} rows of a cone beam do not fill bins of {rows}: what is dropped "
            "would shift its middle plane; take a divisor"
        )

    def added(frames: Tensor) -> Tensor:
        frames = frames[:, : high * rows, : wide * columns]
        return frames.unflatten(1, (high, rows)).unflatten(3, (wide, columns)).sum((2, 4))

    counts, size = has_counts(scan), rows * columns
    dropped = geometry.columns - wide * columns
    changed = _rebuilt(
        geometry,
        columns=wide,
        rows=None if geometry.rows is None else high,
        column_pitch=geometry.column_pitch * columns,
        row_pitch=None if geometry.row_pitch is None else geometry.row_pitch * rows,
        row_offset=geometry.row_offset / rows,
        centre_offset=(geometry.centre_offset + dropped / 2) / columns,
        open_beam=geometry.open_beam * size
        if counts and geometry.open_beam
        else geometry.open_beam,
    )
    if counts:
        binned = _applied(scan, changed, added)
        if binned.weights is not None:
            binned = binned.replace(weights=binned.weights / size)
    else:
        weights = weights_of(scan)
        total = _applied(scan.replace(data=weights), changed, added).data
        mean = _applied(scan, changed, added).data / size
        weighted = _applied(scan.replace(data=weights * scan.data), changed, added)
        data = torch.where(total > 0, weighted.data / total.clamp_min(1e-30), mean)
        binned = weighted.replace(data=data, weights=total)
    return binned.with_step("bin", columns=columns, rows=rows)


def _applied(scan: Scan, geometry: CTGeometry, change: Callable[[Tensor], Tensor]) -> Scan:
    """Change data, weights and calibration frames, each seen as ``(frame, row, column)``."""
    flat = geometry.rows is None

    def views(values: Tensor) -> Tensor:
        frames = values[:, None] if flat else values.transpose(0, 1)
        done = change(frames)
        return (done[:, 0] if flat else done.transpose(0, 1)).contiguous()

    def still(frames: Tensor) -> Tensor:
        return change(frames[:, None])[:, 0] if flat else change(frames)

    weights = scan.weights
    if weights is not None:
        weights = views(weights.broadcast_to(scan.data.shape))
    calibration = {
        name: still(frames) if name in ("flats", "darks") else frames
        for name, frames in scan.calibration.items()
    }
    return scan.replace(
        data=views(scan.data), weights=weights, calibration=calibration, geometry=geometry
    )


def _angular(scan: Scan, step: str) -> CTGeometry:
    geometry = scan.geometry
    assert isinstance(geometry, CTGeometry)
    if geometry.vectors is not None:
        raise StepError(f"{step} does not know how to change a geometry of per-view vectors")
    return geometry


def _range(given: Sequence[int] | None, size: int, what: str) -> tuple[int, int]:
    if given is None:
        return 0, size
    if len(given) != 2 or not 0 <= given[0] < given[1] <= size:
        raise StepError(f"{what} is [first, last + 1] within 0 … {size}, got {list(given)}")
    return given[0], given[1]


def _rebuilt(geometry: CTGeometry, **changes: Any) -> CTGeometry:
    """The geometry with another detector, and the volume grid that belongs to it."""
    grid = {"volume_shape", "voxel_size", "slice_thickness"}
    kept = {name: getattr(geometry, name) for name in CTGeometry.model_fields if name not in grid}
    return CTGeometry(**{name: v for name, v in (kept | changes).items() if v is not None})
