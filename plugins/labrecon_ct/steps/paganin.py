"""Phase contrast to attenuation: Paganin's filter."""

from __future__ import annotations

import math

import torch

from labrecon.instrument import Scan, StepError
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.steps.requirements import require_integrals

__all__ = ["paganin"]

#: h c in keV mm
HC = 1.239841984e-6


def paganin(
    scan: Scan,
    *,
    delta_beta: float,
    energy_kev: float | None = None,
    distance_mm: float | None = None,
) -> Scan:
    """Single-distance phase retrieval of one material (Paganin et al. 2002).

    ``y = −ln F⁻¹[ F[T] / (1 + (z λ / 4π)(δ/β) |k|²) ]`` with the transmission ``T = exp(−y)``,
    ``k`` in rad/mm, ``z`` divided by the magnification for a cone. Blurs what is absorption only:
    not for samples without phase contrast.

    Args:
        scan: line integrals.
        delta_beta: ``δ/β`` of the material, dimensionless (100 to 1000 is usual).
        energy_kev: photon energy, from the file by default.
        distance_mm: sample to detector, from the file by default.

    Raises:
        StepError: energy or distance are neither given nor in the file, or not positive.
    """
    require_integrals(scan, "paganin")
    energy = energy_kev if energy_kev is not None else scan.provenance.get("energy_kev")
    distance = distance_mm if distance_mm is not None else scan.provenance.get("distance_mm")
    if energy is None or distance is None:
        raise StepError("paganin needs energy_kev and distance_mm; the file does not hold both")
    if not (energy > 0 and distance > 0 and delta_beta > 0):
        raise StepError(
            f"delta_beta {delta_beta}, energy {energy} keV and distance {distance} mm must be "
            "positive"
        )
    geometry = scan.geometry
    assert isinstance(geometry, CTGeometry)
    magnification = geometry.magnification
    strength = distance / magnification * (HC / energy) * delta_beta / (4 * math.pi)
    transmission = torch.exp(-scan.data)
    pitches = {-1: geometry.column_pitch / magnification}
    if geometry.rows is not None:
        pitches[0] = (geometry.row_pitch or geometry.column_pitch) / magnification
    squares = torch.zeros(())
    for axis, pitch in pitches.items():
        # Mirrored at the edges: a jump there would ring through the image.
        transmission = torch.cat([transmission, transmission.flip(axis)], axis)
        k = 2 * math.pi * torch.fft.fftfreq(transmission.shape[axis], d=pitch)
        shape = [1] * transmission.ndim
        shape[axis] = -1
        squares = squares + k.square().reshape(shape)
    axes = tuple(pitches)
    spectrum = torch.fft.fftn(transmission, dim=axes) / (1 + strength * squares)
    filtered = torch.fft.ifftn(spectrum, dim=axes)
    for axis in axes:
        filtered = filtered.narrow(axis, 0, scan.data.shape[axis])
    lines = -torch.log(filtered.real.clamp_min(torch.finfo(torch.float32).tiny))
    return scan.replace(data=lines.contiguous()).with_step(
        "paganin",
        delta_beta=delta_beta,
        energy_kev=energy,
        distance_mm=distance,
        length_mm=math.sqrt(strength),
    )


#: Waves spread along the rotation axis, too.
paganin.joins_slices = True  # type: ignore[attr-defined]
