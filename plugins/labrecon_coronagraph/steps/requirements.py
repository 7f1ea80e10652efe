"""What a step requires of a scan."""

from __future__ import annotations

from typing import Any

from labrecon.instrument import Scan, StepError
from labrecon_coronagraph.geometry import CoronagraphGeometry

__all__ = ["geometry_of", "not_applicable"]


def geometry_of(scan: Scan) -> CoronagraphGeometry:
    """The scan's geometry, which its data fit.

    Raises:
        StepError: another geometry, or data of another shape.
    """
    geometry = scan.geometry
    if not isinstance(geometry, CoronagraphGeometry):
        raise StepError(
            f"a coronagraphic sequence was expected, its geometry is {type(geometry).__name__}"
        )
    expected = (geometry.frames, *geometry.shape)
    if tuple(scan.data.shape) != expected:
        raise StepError(
            f"data are (frame, y, x) = {expected} for this geometry, got {tuple(scan.data.shape)}"
        )
    return geometry


def not_applicable(scan: Scan, step: str, why: str, **values: Any) -> Scan:
    """The scan as it is, with a record that the step did nothing."""
    return scan.with_step(step, result=f"not applicable: {why}", **values)
