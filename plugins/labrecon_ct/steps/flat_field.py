"""Dark and flat correction: counts to line integrals."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Scan
from labrecon_ct.steps.quantity import StepError, holds_counts

__all__ = ["flat_field"]


def flat_field(
    scan: Scan, *, electronic_noise: float = 0.0, floor: float = 1.0, interpolate: bool = True
) -> Scan:
    """``p = −ln((N − dark) / (flat − dark))``, with statistical weights ``N̄² / (N̄ + σ²)``.

    The dark is subtracted before the ratio. Transmitted counts below ``floor`` are raised to it,
    so that the logarithm exists; their number is recorded. Pixels without light in the flat get
    weight 0.

    Args:
        scan: raw counts ``(row, angle, column)`` with ``flats`` and, perhaps, ``darks``.
        electronic_noise: ``σ`` of the detector in counts.
        floor: smallest number of counts.
        interpolate: between flats taken before and after, by frame number, where the scan has
            ``flat_frames`` and ``projection_frames``; else their mean.

    Raises:
        StepError: no flats, flats without light, or an impossible option.
    """
    if not holds_counts(scan):
        return scan.with_step("flat_field", applied=False, why="data are line integrals already")
    if not floor > 0 or not electronic_noise >= 0:
        raise StepError("floor must be positive and electronic_noise not negative, in counts")
    if "flats" not in scan.calibration:
        raise StepError("raw counts need flats (open-beam frames), and the scan has none")
    flats = scan.calibration["flats"]
    dark = scan.calibration.get("darks", flats.new_zeros(1, *flats.shape[1:])).mean(0)
    open_beam, drift = _open_beam(scan, flats, interpolate)
    open_beam = open_beam - dark[:, None]
    lit = (open_beam > floor).all(1, keepdim=True)
    if float(lit.float().mean()) < 0.5:
        raise StepError(
            f"the flats hold no light: {float((~lit).float().mean()):.0%} of the pixels are at or "
            f"below the dark level (mean flat {float(flats.mean()):.4g}, mean dark "
            f"{float(dark.mean()):.4g} counts)"
        )
    transmitted = scan.data - dark[:, None]
    low = (transmitted < floor) & lit
    transmitted = transmitted.clamp_min(floor)
    integrals = -torch.log(transmitted / torch.where(lit, open_beam, 1.0))
    integrals = torch.where(lit, integrals, 0.0)
    weights = transmitted.square() / (transmitted + electronic_noise**2)
    weights = torch.where(lit, weights / weights[lit.expand_as(weights)].mean(), 0.0)
    if scan.weights is not None:
        weights = weights * scan.weights
    return scan.replace(
        data=integrals,
        weights=weights,
        calibration={},
        provenance={**scan.provenance, "quantity": "line integrals"},
    ).with_step(
        "flat_field",
        flats=len(flats),
        flat_drift=drift,
        raised_to_floor=int(low.sum()),
        unlit_pixels=int((~lit).sum()),
        mean_transmission=float(torch.exp(-integrals).mean()),
    )


def _open_beam(scan: Scan, flats: Tensor, interpolate: bool) -> tuple[Tensor, float]:
    """Open-beam counts ``(row, 1 or angle, column)`` and the drift between first and last flats."""
    frames = scan.calibration.get("flat_frames")
    views = scan.calibration.get("projection_frames")
    if not interpolate or frames is None or views is None:
        return flats.mean(0)[:, None], 0.0
    middle = 0.5 * float(views[0] + views[-1])
    before, after = flats[frames < middle], flats[frames >= middle]
    if not len(before) or not len(after):
        return flats.mean(0)[:, None], 0.0
    first, last = before.mean(0), after.mean(0)
    start = float(frames[frames < middle].float().mean())
    end = float(frames[frames >= middle].float().mean())
    t = ((views.to(flats.dtype) - start) / (end - start)).clamp(0, 1)[None, :, None]
    drift = float(last.mean() / first.mean() - 1)
    return (1 - t) * first[:, None] + t * last[:, None], drift
