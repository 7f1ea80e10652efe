"""What a step requires of a scan."""

from __future__ import annotations

from labrecon.instrument import Scan
from labrecon_phase.geometry import PhaseGeometry

__all__ = ["StepError", "geometry_of"]


class StepError(ValueError):
    """A preparation step can not work on this scan, or was given numbers that make no sense."""


def geometry_of(scan: Scan) -> PhaseGeometry:
    """The scan's geometry, which its data fit.

    Raises:
        StepError: another geometry, or data of another shape.
    """
    geometry = scan.geometry
    if not isinstance(geometry, PhaseGeometry):
        raise StepError(
            f"an LED-array scan was expected, its geometry is {type(geometry).__name__}"
        )
    expected = (geometry.exposures, *geometry.shape)
    if tuple(scan.data.shape[-3:]) != expected:
        raise StepError(
            f"data are (exposure, y, x) = {expected} for this geometry, got "
            f"{tuple(scan.data.shape)}"
        )
    return geometry
