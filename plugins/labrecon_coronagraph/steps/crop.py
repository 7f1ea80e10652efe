"""Crop: a part of the field of view."""

from __future__ import annotations

from typing import Any

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.steps.requirements import geometry_of

__all__ = ["crop"]


def crop(scan: Scan, *, y: list[int], x: list[int]) -> Scan:
    """Keep the pixels from ``y[0]`` up to ``y[1]``, without it, and likewise along x.

    The map of the sky becomes as large as the frames, unless the geometry has its own ``field``.

    Args:
        scan: frames.
        y: first row, and the one after the last.
        x: first column, and the one after the last.

    Raises:
        StepError: the region is not within the frame, is smaller than 5 pixels, or leaves the star
            out; or speckles were taken out before.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("put crop before speckles, whose annuli end at the frame")
    for name, given, size, at in zip("yx", (y, x), geometry.shape, geometry.centre, strict=True):
        if len(given) != 2 or not 0 <= given[0] <= given[1] - 5 <= size - 5:
            raise StepError(
                f"{name} = {list(given)} is no region of frames of {size} pixels along {name}: "
                f"give [start, stop] with 0 ≤ start, start + 5 ≤ stop ≤ {size}"
            )
        if not given[0] <= at <= given[1] - 1:
            raise StepError(f"{name} = {list(given)} leaves out the star, at {at:.1f}")
    region = (slice(*y), slice(*x))
    changed = geometry.changed(
        shape=(y[1] - y[0], x[1] - x[0]),
        centre=(geometry.centre[0] - y[0], geometry.centre[1] - x[0]),
    )
    told: dict[str, Any] = {}
    truth = scan.truth
    if truth is not None:
        margins = [a - b for a, b in zip(geometry.field_shape, changed.field_shape, strict=True)]
        if any(margin % 2 for margin in margins):
            truth, told = None, {"truth": "left out: the pixels of the sky are others"}
        else:
            down, across = (
                slice(margin // 2, margin // 2 + size)
                for margin, size in zip(margins, changed.field_shape, strict=True)
            )
            truth = truth[..., down, across].contiguous()
    weights = scan.weights
    if weights is not None:
        weights = weights.expand(scan.data.shape)[(..., *region)].contiguous()
    return scan.replace(
        data=scan.data[(..., *region)].contiguous(),
        geometry=changed,
        weights=weights,
        truth=truth,
    ).with_step("crop", y=list(y), x=list(x), **told)
