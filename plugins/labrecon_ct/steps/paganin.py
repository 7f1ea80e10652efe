"""Phase retrieval from propagation (single distance)."""

from __future__ import annotations

import math

import torch

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, geometry_of, require_integrals

__all__ = ["paganin"]


def paganin(
    scan: Scan, *, distance: float, energy: float, delta_beta: float, padding: int = 32
) -> Scan:
    """``p ← −ln F⁻¹{ F{e^{−p}} / (1 + π λ z (δ/β) |f|²) }`` (Paganin et al. 2002).

    For one homogeneous material in the near field; trades sharpness for contrast.

    Args:
        scan: line integrals ``(row, angle, column)`` of a parallel beam, true pixel size.
        distance: sample to detector in mm.
        energy: of the photons in keV.
        delta_beta: ``δ/β`` of the material.
        padding: pixels repeated around each projection.

    Raises:
        StepError: an option is not positive, or the scan is no parallel 3D scan.
    """
    require_integrals(scan, "paganin")
    geometry = geometry_of(scan)
    if min(distance, energy, delta_beta) <= 0 or padding < 0:
        raise StepError("distance (mm), energy (keV) and delta_beta must be positive")
    if geometry.kind != "parallel3d":
        raise StepError(f"paganin needs a parallel 3D scan, this one is {geometry.kind}")
    wavelength = 1.2398419843320026e-6 / energy  # mm · keV
    frames = torch.exp(-scan.data).transpose(0, 1)
    padded = torch.nn.functional.pad(frames, (padding,) * 4, mode="replicate")
    fy = torch.fft.fftfreq(padded.shape[-2], geometry.row_pitch or 1.0)[:, None]
    fx = torch.fft.rfftfreq(padded.shape[-1], geometry.column_pitch)
    low_pass = 1 / (1 + math.pi * wavelength * distance * delta_beta * (fx**2 + fy**2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(padded) * low_pass, s=padded.shape[-2:])
    rows, columns = frames.shape[-2:]
    smooth = smooth[..., padding : padding + rows, padding : padding + columns]
    tiny = torch.finfo(smooth.dtype).tiny
    result = -torch.log(smooth.clamp_min(tiny)).transpose(0, 1).contiguous()
    return scan.replace(data=result).with_step(
        "paganin", distance_mm=distance, energy_keV=energy, delta_beta=delta_beta
    )
