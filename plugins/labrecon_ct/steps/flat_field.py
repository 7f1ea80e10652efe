"""Counts to line integrals: dark subtraction, flat field, logarithm, statistical weights."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.noise import FLOOR, line_integral_noise, photon_transfer, statistical_weights
from labrecon_ct.steps.requirements import has_counts, not_applicable

__all__ = ["flat_field", "flat_groups"]

BLOCK = 64
#: Objects that let nothing through are rare; frames divided by something are not.
MOST_FLOORED = 0.2


def flat_field(
    scan: Scan,
    *,
    interpolate: bool = True,
    dead_below: float = 0.02,
    gain: float | None = None,
) -> Scan:
    """``y = −ln((N − dark) / (flat − dark))``, with weights ``N² / (N + σ²)`` in photons.

    Flats taken in groups (before, after) are interpolated linearly in time. Counts are floored at
    one above dark. The gain (counts per photon) is measured from the scatter of flats, the
    electronic noise from that of darks. Pixels without beam get weight 0.

    A per-view dose in the geometry scales the beam of that view.

    Args:
        scan: counts; other scans are left as they are.
        interpolate: follow the flats in time; otherwise they are averaged.
        dead_below: a pixel whose flat is below this fraction of the median flat is dead.
        gain: counts per photon, where it is known.

    Raises:
        StepError: there are neither flats nor the geometry's open_beam, or flats show no beam.
    """
    if not has_counts(scan):
        return not_applicable(scan, "flat_field", "the data are line integrals")
    flats, darks = scan.calibration.get("flats"), scan.calibration.get("darks")
    dark = torch.zeros(()) if darks is None else darks.mean(0).unsqueeze(-2)
    beams, times = _beams(scan, flats, dark, interpolate)
    usual = float(beams.median())
    if not usual > 0:
        raise StepError(
            f"the median flat is {usual:.4g} counts above dark, expected open beam: was the "
            "shutter closed during the flats?"
        )
    dead = (beams <= max(dead_below * usual, FLOOR)).any(0)
    views = scan.data.shape[-2]
    given = getattr(scan.geometry, "dose", None)
    dose = torch.ones(views) if given is None else torch.tensor(given)
    view_time = scan.calibration.get("view_time", torch.linspace(0, 1, views).double())
    groups = [] if flats is None else [flats[g] for g in flat_groups(scan)]
    photons_per, sigma = photon_transfer(groups, darks, gain)
    lines = torch.empty_like(scan.data)
    precision = torch.empty_like(scan.data)
    floored = 0
    for low in range(0, views, BLOCK):
        part = slice(low, min(low + BLOCK, views))
        net = scan.data[..., part, :] - dark
        floored += int(((net < FLOOR) & ~dead).sum())
        net = net.clamp_min(FLOOR)
        beam = (_at(beams, times, view_time[part]) * dose[part, None]).clamp_min(FLOOR)
        lines[..., part, :] = torch.log(beam) - torch.log(net)
        precision[..., part, :] = statistical_weights(net / photons_per, sigma)
    live = views * int((~dead).sum())
    if floored > MOST_FLOORED * live:
        raise StepError(
            f"{floored / live:.0%} of the samples are less than one count above dark, with a beam "
            f"of {usual:.4g}: are the frames scaled? Give raw counts, or line integrals"
        )
    precision = torch.where(dead, torch.zeros(()), precision)
    if scan.weights is not None:
        precision = precision * scan.weights
    noise, weights = line_integral_noise(precision)
    geometry = scan.geometry.model_copy(update={"open_beam": usual / photons_per})
    return scan.replace(
        data=lines,
        noise=noise,
        weights=weights,
        geometry=geometry,
        provenance={**scan.provenance, "quantity": "line integrals"},
    ).with_step(
        "flat_field",
        flats="open_beam of the geometry" if flats is None else len(flats),
        darks=0 if darks is None else len(darks),
        flat_groups=len(beams),
        open_beam_photons=round(usual / photons_per, 1),
        counts_per_photon=round(photons_per, 4),
        electronic_noise_photons=round(sigma, 3),
        gain_from="given" if gain else ("scatter of the flats" if _many(flats) else "assumed"),
        dead_pixels=int(dead.sum()),
        floored_samples=floored,
    )


def flat_groups(scan: Scan) -> list[Tensor]:
    """Indices of the flats that were taken together, in the order of time."""
    flats, taken = scan.calibration["flats"], scan.calibration.get("flat_time")
    if taken is None or len(taken) != len(flats):
        return [torch.arange(len(flats))]
    order = taken.argsort(stable=True)
    # A pause longer than a tenth of the scan separates two groups.
    breaks = (taken[order].diff() > 0.1).nonzero().flatten() + 1
    return list(order.tensor_split(breaks.tolist()))


def _many(flats: Tensor | None) -> bool:
    return flats is not None and len(flats) >= 4


def _beams(
    scan: Scan, flats: Tensor | None, dark: Tensor, interpolate: bool
) -> tuple[Tensor, Tensor]:
    """Open beam above dark of each group of flats ``(group, …, 1, column)`` and its time."""
    if flats is None:
        given = getattr(scan.geometry, "open_beam", None)
        if given is None:
            raise StepError(
                "the scan holds counts but no flats, and the geometry no open_beam: add flats "
                "to the file, or give line integrals"
            )
        beam = torch.full_like(scan.data[..., :1, :], given)
        return beam[None], torch.zeros(1, dtype=torch.float64)
    groups = flat_groups(scan) if interpolate else [torch.arange(len(flats))]
    taken = scan.calibration.get("flat_time")
    times = [0.0 if taken is None else float(taken[g].mean()) for g in groups]
    beams = torch.stack([flats[g].mean(0).unsqueeze(-2) - dark for g in groups])
    return beams, torch.tensor(times, dtype=torch.float64)


def _at(beams: Tensor, times: Tensor, views: Tensor) -> Tensor:
    """The beam of each view ``(…, view, column)``, constant before the first and after the last."""
    if len(beams) == 1:
        return beams[0]
    index = torch.searchsorted(times, views.double()).clamp(1, len(times) - 1)
    share = (views - times[index - 1]) / (times[index] - times[index - 1])
    share = share.clamp(0, 1).to(beams.dtype)[:, None]
    # (group, …, 1, column) to (…, view, column)
    low = beams[index - 1].squeeze(-2).movedim(0, -2)
    high = beams[index].squeeze(-2).movedim(0, -2)
    return low * (1 - share) + high * share
