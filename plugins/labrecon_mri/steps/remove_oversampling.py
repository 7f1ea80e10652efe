"""Remove the readout oversampling: keep the part of the field of view that is asked for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon.operators.fourier import centred_fft, centred_ifft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["remove_oversampling"]


def remove_oversampling(scan: Scan) -> Scan:
    """Crop the field of view to that of the reconstruction, along fully sampled Cartesian axes.

    ``y' = F_n C F_Nᴴ y`` along an axis, where ``C`` keeps ``n`` of ``N`` pixels, index ``N//2``
    becoming ``n//2``. Transforms are orthonormal: image values stay, and white noise stays white
    with its ``σ``. The pixel size stays; what the file asks beyond that (interpolation) is left.

    Args:
        scan: Cartesian, with ``provenance["recon_fov"]`` in m per image axis, or
            ``provenance["recon_matrix"]``.

    Raises:
        StepError: the file's numbers make no sense, or calibration lines do not fit the data.
    """
    geometry = geometry_of(scan)
    if geometry.trajectory is not None:
        return not_applicable(scan, "remove_oversampling", "samples along a trajectory are kept")
    wanted = _wanted(scan, geometry)
    axes = {
        axis: n
        for axis, n in zip(geometry.axes, wanted, strict=True)
        if n < geometry.matrix[geometry.axes.index(axis)]
    }
    if not axes:
        return not_applicable(scan, "remove_oversampling", "no axis is oversampled")
    undersampled = [axis for axis in axes if not _uniform(scan, geometry, axis)]
    for axis in undersampled:
        del axes[axis]
    if not axes:
        why = f"not every sample along {', '.join(undersampled)} was measured"
        return not_applicable(scan, "remove_oversampling", why)
    for axis, n in axes.items():
        scan = _cropped(scan, geometry_of(scan), axis, n)
    told: dict[str, Any] = (
        {} if not undersampled else {"kept": f"{undersampled}: not fully sampled"}
    )
    changed = geometry_of(scan)
    return scan.with_step(
        "remove_oversampling",
        matrix=list(changed.matrix),
        fov=[float(f"{length:.6g}") for length in changed.fov],
        cropped=list(axes),
        **told,
    )


def _wanted(scan: Scan, geometry: MRIGeometry) -> tuple[int, ...]:
    """Pixels of the present size that the reconstruction's field of view takes."""
    fov, matrix = scan.provenance.get("recon_fov"), scan.provenance.get("recon_matrix")
    if fov is None and matrix is None:
        return geometry.matrix
    given = fov if fov is not None else matrix
    assert given is not None
    if len(given) != geometry.ndim or not all(float(value) > 0 for value in given):
        raise StepError(
            f"recon_fov and recon_matrix are positive, one number per axis {geometry.axes}; the "
            f"file says {fov} and {matrix}"
        )
    if fov is None:
        return tuple(int(n) for n in given)
    return tuple(
        max(1, round(float(length) / pixel))
        for length, pixel in zip(given, geometry.pixel, strict=True)
    )


def _uniform(scan: Scan, geometry: MRIGeometry, axis: str) -> bool:
    """Whether mask and weights are the same all along an axis."""
    position = geometry.axes.index(axis) - geometry.ndim
    arrays = [None if geometry.mask is None else geometry.mask.tensor(), scan.weights]
    return all(
        values is None
        or values.ndim < -position
        or bool((values == values.narrow(position, 0, 1)).all())
        for values in arrays
    )


def _cropped(scan: Scan, geometry: MRIGeometry, axis: str, n: int) -> Scan:
    position = geometry.axes.index(axis)
    back = position - geometry.ndim
    old = geometry.matrix[position]

    def image(values: Tensor) -> Tensor:
        return values.narrow(back, old // 2 - n // 2, n)

    def kspace(values: Tensor) -> Tensor:
        return centred_fft(image(centred_ifft(values, (back,))), (back,)).contiguous()

    def same(values: Tensor) -> Tensor:
        full = values.ndim >= -back and values.shape[back] == old
        return values.narrow(back, 0, n) if full else values

    calibration = dict(scan.calibration)
    lines = calibration.get("calibration")
    if lines is not None:
        if lines.shape[back] != old:
            raise StepError(
                f"calibration lines have {lines.shape[back]} samples along {axis}, the data {old}: "
                "their field of view can not be cropped alike"
            )
        calibration["calibration"] = kspace(lines)
    mask, maps = geometry.mask, geometry.maps
    matrix, fov = list(geometry.matrix), list(geometry.fov)
    matrix[position], fov[position] = n, geometry.fov[position] * n / old
    readout = axis == "x"
    changed = geometry.changed(
        matrix=tuple(matrix),
        fov=tuple(fov),
        mask=None if mask is None else Array(same(mask.tensor())),
        maps=None if maps is None else Array(image(maps.tensor())),
        times=None if readout else geometry.times,
        dwell=geometry.dwell * old / n if readout and geometry.dwell else geometry.dwell,
    )
    return scan.replace(
        data=kspace(scan.data),
        weights=None if scan.weights is None else same(scan.weights),
        truth=None if scan.truth is None else image(scan.truth),
        calibration=calibration,
        geometry=changed,
    )
