"""Crop: a part of the field of view."""

from __future__ import annotations

from typing import Any

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_phase.steps.requirements import geometry_of

__all__ = ["crop"]


def crop(scan: Scan, *, y: list[int], x: list[int]) -> Scan:
    """Keep the camera pixels from ``y[0]`` up to ``y[1]``, without it, and likewise along x.

    Directions of LEDs stay those of the whole field: off its middle, under an array close by, give
    ``led_shift`` (the middle of the crop moved by 1 mm is the array moved by −1 mm), or learn it.
    LEDs that lay on the grid of the image's spectrum, such as those of half annuli, lie off that of
    the smaller image: transfer functions are then summed LED by LED, which takes longer.

    Args:
        scan: any.
        y: first row, and the one after the last.
        x: first column, and the one after the last.

    Raises:
        StepError: the region is not within the image, or smaller than 2 pixels.
    """
    geometry = geometry_of(scan)
    for name, given, size in zip("yx", (y, x), geometry.shape, strict=True):
        if len(given) != 2 or not 0 <= given[0] <= given[1] - 2 <= size - 2:
            raise StepError(
                f"{name} = {list(given)} is no region of images of {size} pixels along {name}: "
                f"give [start, stop] with 0 ≤ start, start + 2 ≤ stop ≤ {size}"
            )
    region = (slice(*y), slice(*x))
    changed = geometry.changed(shape=(y[1] - y[0], x[1] - x[0]))
    told: dict[str, Any] = {}
    truth = scan.truth
    if truth is not None and changed.upsampling == geometry.upsampling:
        u = geometry.upsampling
        truth = truth[..., u * y[0] : u * y[1], u * x[0] : u * x[1]].contiguous()
    elif truth is not None:
        truth, told = None, {"truth": "left out: the object's pixels are others"}
    weights = scan.weights
    if weights is not None:
        weights = weights.expand(scan.data.shape)[(..., *region)].contiguous()
    calibration = {
        name: values[(..., *region)].contiguous()
        if tuple(values.shape[-2:]) == geometry.shape
        else values
        for name, values in scan.calibration.items()
    }
    return scan.replace(
        data=scan.data[(..., *region)].contiguous(),
        geometry=changed,
        weights=weights,
        truth=truth,
        calibration=calibration,
    ).with_step("crop", y=list(y), x=list(x), **told)
