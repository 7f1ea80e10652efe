"""Fewer views, fewer columns, larger pixels."""

from __future__ import annotations

import math

from torch import Tensor

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, geometry_of, require_integrals

__all__ = ["bin_detector", "crop", "subset"]


def subset(scan: Scan, *, every: int = 1, first: int = 0, up_to: float | None = None) -> Scan:
    """Keep every ``every``-th view, from view ``first``, over at most ``up_to`` degrees.

    Raises:
        StepError: no view is left.
    """
    geometry = geometry_of(scan)
    if every < 1 or first < 0:
        raise StepError(f"every must be ≥ 1 and first ≥ 0, got {every} and {first}")
    start = geometry.angles[0]
    chosen = [
        i
        for i in range(first, len(geometry.angles), every)
        if up_to is None or abs(math.degrees(geometry.angles[i] - start)) <= up_to
    ]
    if not chosen:
        raise StepError(f"no view is left of {len(geometry.angles)}")
    calibration = dict(scan.calibration)
    if "view_time" in calibration:
        calibration["view_time"] = calibration["view_time"][chosen]
    return scan.replace(
        data=scan.data[..., chosen, :],
        weights=_along(scan.weights, -2, chosen),
        geometry=geometry.select(chosen),
        calibration=calibration,
    ).with_step("subset", every=every, first=first, views=len(chosen))


def _along(weights: Tensor | None, axis: int, chosen: list[int]) -> Tensor | None:
    if weights is None or weights.shape[axis] == 1:
        return weights
    return weights[..., chosen, :]


def crop(scan: Scan, *, first: int, last: int) -> Scan:
    """Keep detector columns ``first`` to ``last`` (inclusive); the rotation centre moves along.

    Raises:
        StepError: the range is not on the detector, or the data are raw counts.
    """
    require_integrals(scan, "crop")
    geometry = geometry_of(scan)
    if not 0 <= first < last < geometry.columns:
        raise StepError(f"columns {first} to {last} are not among 0 to {geometry.columns - 1}")
    columns = last - first + 1
    centre = geometry.centre_column - first
    weights = scan.weights
    if weights is not None and weights.shape[-1] > 1:
        weights = weights[..., first : last + 1]
    update = {
        "columns": columns,
        "centre_offset": centre - (columns - 1) / 2,
        "volume_shape": (*geometry.volume_shape[:-2], columns, columns),
    }
    return scan.replace(
        data=scan.data[..., first : last + 1],
        weights=weights,
        geometry=geometry.model_copy(update=update),
    ).with_step("crop", first=first, last=last)


def bin_detector(scan: Scan, *, factor: int) -> Scan:
    """Average ``factor`` columns (and rows); columns that do not fill a bin are cut at the end.

    Raises:
        StepError: the factor does not fit the detector, or the data are raw counts.
    """
    require_integrals(scan, "bin")
    geometry = geometry_of(scan)
    rows = geometry.rows
    if factor < 2 or factor > geometry.columns or (rows is not None and factor > max(rows, 1)):
        raise StepError(f"can not bin {geometry.columns} columns and {rows} rows by {factor}")
    weights = scan.weights
    if weights is not None:
        weights = _binned(weights.expand_as(scan.data), factor, rows is not None)
    data = _binned(scan.data, factor, rows is not None)
    columns = data.shape[-1]
    centre = (geometry.centre_column + 0.5) / factor - 0.5
    plane = [max(1, n // factor) for n in geometry.volume_shape]
    update: dict[str, object] = {
        "columns": columns,
        "column_pitch": geometry.column_pitch * factor,
        "centre_offset": centre - (columns - 1) / 2,
        "volume_shape": tuple(plane),
        "voxel_size": (geometry.voxel_size or 1.0) * factor,
    }
    if rows is not None:
        update["rows"] = data.shape[0]
        update["row_pitch"] = (geometry.row_pitch or 1.0) * factor
        update["slice_thickness"] = (geometry.slice_thickness or 1.0) * factor
        update["volume_shape"] = (data.shape[0], *plane[1:])
    return scan.replace(
        data=data, weights=weights, geometry=geometry.model_copy(update=update)
    ).with_step("bin", factor=factor)


def _binned(values: Tensor, factor: int, rows: bool) -> Tensor:
    columns = values.shape[-1] // factor
    values = values[..., : columns * factor].unflatten(-1, (columns, factor)).mean(-1)
    if not rows:
        return values
    count = values.shape[0] // factor
    return values[: count * factor].unflatten(0, (count, factor)).mean(1)
