"""What a step requires of a scan, and the record of one that has nothing to do."""

from __future__ import annotations

from typing import Any

from labrecon.instrument import Scan, StepError
from labrecon_mri.geometry import MRIGeometry

__all__ = ["PLACES", "StepError", "geometry_of", "not_applicable"]

#: Frames that are other places in the patient: coils and field differ from one to the next.
PLACES = ("slice", "slab")


def geometry_of(scan: Scan) -> MRIGeometry:
    """The scan's MRI geometry, which its data fit.

    Raises:
        StepError: another geometry, or data of another shape.
    """
    geometry = scan.geometry
    if not isinstance(geometry, MRIGeometry):
        raise StepError(f"an MRI scan was expected, its geometry is {type(geometry).__name__}")
    frames = (*geometry.frames.values(), geometry.coils)
    if geometry.trajectory is None:
        samples, layout = geometry.matrix, "(*frames, coil, *matrix)"
    else:
        samples, layout = geometry.trajectory.shape[-3:-1], "(*frames, coil, shot, sample)"
    if tuple(scan.data.shape) != (*frames, *samples):
        raise StepError(
            f"data are {layout} = {(*frames, *samples)} for this geometry, got "
            f"{tuple(scan.data.shape)}"
        )
    return geometry


def not_applicable(scan: Scan, step: str, why: str, **values: Any) -> Scan:
    """The scan as it is, with a record that the step did nothing."""
    return scan.with_step(step, result=f"not applicable: {why}", **values)
