"""Slices of a volume with the detector rows that see nothing else."""

from __future__ import annotations

import math

from labrecon.instrument import ReaderError
from labrecon_ct.geometry import CTGeometry

__all__ = ["OWN_FIELDS", "halo", "part", "rows_within"]

#: Fields of the geometry that each part has for itself.
OWN_FIELDS = ("rows", "row_offset", "volume_shape", "slice_offset")
#: Of a slice: what rounding may take from a row of parallel rays, which sees its slice exactly.
ROUNDING = 1e-6


def part(geometry: CTGeometry, start: int, stop: int) -> CTGeometry:
    """The slices ``start`` to ``stop − 1`` and the rows within them, as an acquisition.

    Raises:
        ReaderError: no row sees these slices only.
    """
    rows = rows_within(geometry, start, stop)
    count, height = rows.stop - rows.start, geometry.volume_shape[0]
    update: dict[str, object] = {
        "rows": count,
        "volume_shape": (stop - start, *geometry.volume_shape[1:]),
    }
    if not geometry.slicewise:
        before = 0.5 * ((geometry.rows or 1) - count) - rows.start
        middle = 0.5 * (start + stop - height) * geometry.voxel[0]
        update["row_offset"] = geometry.row_offset + before
        update["slice_offset"] = geometry.slice_offset + middle
    return geometry.model_copy(update=update)


def rows_within(geometry: CTGeometry, start: int, stop: int) -> slice:
    """The rows whose rays stay within the slices ``start`` to ``stop − 1``.

    A ray that crosses the axis at height ``v`` is at ``v (1 ± R/D)`` where it enters and leaves the
    cylinder around the grid, of radius ``R``, with the source at ``D``; a row of a tilted detector
    sees as many heights as its ends are apart. It must not come closer
    than half a slice to the edge, since projectors interpolate; rays that leave the volume itself
    stay.

    Raises:
        ReaderError: there is none.
    """
    low, high = _bounds(geometry, start, stop)
    inside = []
    for row in range(geometry.rows or 1):
        bottom, top = _reach(geometry, _height(geometry, row))
        if (start == 0 or bottom >= low) and (stop == geometry.volume_shape[0] or top <= high):
            inside.append(row)
    if not inside:
        raise ReaderError(
            f"no detector row sees slices {start} to {stop - 1} only: rays of this cone cross "
            f"{_spread(geometry, start, stop):.3g} slices there; take fewer slabs, or a larger halo"
        )
    return slice(inside[0], inside[-1] + 1)


def halo(geometry: CTGeometry, start: int, stop: int) -> tuple[int, int]:
    """Slices before ``start`` and from ``stop`` on that rays through those in between cross, too.

    With so many, every row that a voxel in between projects on is one of `rows_within`: its
    filtered back-projection is that of the whole volume.
    """
    thick, total = geometry.voxel[0], geometry.volume_shape[0]
    ratio = _ratio(geometry)
    if ratio >= 1:
        return start, total - stop
    spacing = _spacing(geometry)
    bottom, top = (_middle(geometry, i) for i in (start, stop - 1))
    # Interpolation joins neighbouring slices in projectors, and neighbouring rows in FDK.
    lowest = min(min((bottom - thick) / d, bottom / d - spacing) for d in (1 - ratio, 1 + ratio))
    highest = max(max((top + thick) / d, top / d + spacing) for d in (1 - ratio, 1 + ratio))
    heights = [_height(geometry, row) for row in range(geometry.rows or 1)]
    lean = _lean(geometry)
    seen = [_reach(geometry, v) for v in heights if lowest - lean < v < highest + lean]
    if not seen:
        return 0, 0
    first, last = min(low for low, _ in seen), max(high for _, high in seen)
    edge = _middle(geometry, 0)
    slack = ROUNDING * thick
    # The slices whose middles lie a whole slice beyond what is reached, at most.
    before = start - math.floor((first - edge + slack) / thick)
    after = math.ceil((last - edge - slack) / thick) + 1 - stop
    return min(max(before, 0), start), min(max(after, 0), total - stop)


def _ratio(geometry: CTGeometry) -> float:
    """``R/D``; 0 for parallel rays."""
    if geometry.beam == "parallel" or not geometry.source_origin:
        return 0.0
    *_, ny, nx = geometry.volume_shape
    # A voxel more, onto which the outermost ones are interpolated.
    return (0.5 * math.hypot(ny, nx) + 1) * geometry.voxel[-1] / geometry.source_origin


def _reach(geometry: CTGeometry, v: float) -> tuple[float, float]:
    """Lowest and highest point of the rays of a row within the cylinder."""
    ratio, lean = _ratio(geometry), _lean(geometry)
    ends = [(v + side) * d for side in (-lean, lean) for d in (1 - ratio, 1 + ratio)]
    return min(ends), max(ends)


def _lean(geometry: CTGeometry) -> float:
    """By how much a tilt lifts one end of a row above its middle, on the axis."""
    half = 0.5 * (geometry.columns - 1) * geometry.column_pitch / geometry.magnification
    return abs(math.sin(geometry.detector_tilt)) * half


def _spacing(geometry: CTGeometry) -> float:
    return (geometry.row_pitch or geometry.column_pitch) / geometry.magnification


def _height(geometry: CTGeometry, row: int) -> float:
    """Where the middle of a row is on the axis, above the plane of the source."""
    place = row - 0.5 * ((geometry.rows or 1) - 1) - geometry.row_offset
    return place * _spacing(geometry) * math.cos(geometry.detector_tilt)


def _middle(geometry: CTGeometry, index: int) -> float:
    """Height of the middle of a slice."""
    place = index - 0.5 * (geometry.volume_shape[0] - 1)
    return geometry.slice_offset + place * geometry.voxel[0]


def _bounds(geometry: CTGeometry, start: int, stop: int) -> tuple[float, float]:
    """Middles of the outermost slices, with what rounding may take."""
    slack = ROUNDING * geometry.voxel[0]
    return _middle(geometry, start) - slack, _middle(geometry, stop - 1) + slack


def _spread(geometry: CTGeometry, start: int, stop: int) -> float:
    height = max(abs(_middle(geometry, i)) for i in (start, stop - 1))
    bottom, top = _reach(geometry, height)
    return (top - bottom) / geometry.voxel[0] + 1
