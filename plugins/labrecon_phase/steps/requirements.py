"""What a step requires of a scan."""

from __future__ import annotations

from labrecon.instrument import Scan, StepError
from labrecon_phase.geometry import PhaseGeometry

__all__ = ["geometry_of"]


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
