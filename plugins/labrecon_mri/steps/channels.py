"""Linear combinations of the receive channels, of everything that has channels."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.requirements import geometry_of

__all__ = ["coil_axis", "mix_channels"]

#: Calibration arrays whose first axis are the coils.
WITH_CHANNELS = ("calibration", "navigator", "noise")


def coil_axis(geometry: MRIGeometry) -> int:
    """The axis of the coils in the data, counted from the end."""
    return -1 - (geometry.ndim if geometry.trajectory is None else 2)


def mix_channels(scan: Scan, mixing: Tensor) -> Scan:
    """``y'_i = Σ_c M_ic y_c``: data, calibration, navigator, noise scan, and maps where there are.

    Args:
        scan: noise model and record are left to the caller.
        mixing: ``M`` (new coil, coil), complex.

    Raises:
        StepError: the weights differ from channel to channel: they have no meaning after it.
    """
    geometry = geometry_of(scan)
    axis = coil_axis(geometry)
    weights = scan.weights
    if weights is not None and weights.ndim >= -axis and weights.shape[axis] > 1:
        if not bool((weights == weights.narrow(axis, 0, 1)).all()):
            raise StepError(
                "the weights of this scan differ between coils, and combinations of coils can not "
                "have them: take the bad coil out of the file, or leave this step out"
            )
        weights = weights.narrow(axis, 0, 1)
    calibration = {
        name: _mixed(values, mixing, 0) if name in WITH_CHANNELS else values
        for name, values in scan.calibration.items()
    }
    maps = geometry.maps
    if maps is not None:
        maps = Array(_mixed(maps.tensor(), mixing, -1 - geometry.ndim))
    return scan.replace(
        data=_mixed(scan.data, mixing, axis),
        weights=weights,
        calibration=calibration,
        geometry=geometry.changed(coils=len(mixing), maps=maps),
    )


def _mixed(values: Tensor, mixing: Tensor, axis: int) -> Tensor:
    moved = torch.tensordot(mixing.to(values.dtype), values, dims=([1], [axis % values.ndim]))
    return moved.movedim(0, axis).contiguous()
