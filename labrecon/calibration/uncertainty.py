"""Standard errors of the nuisances, and which of them the data do not determine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.calibration.information import Information
from labrecon.calibration.result import AT_BOUND
from labrecon.calibration.unknowns import Unknowns

__all__ = ["Uncertainty", "uncertainty"]

#: Share of the information with a known object that must be left with an unknown one.
LEAST_LEFT = 1e-6
#: Share of the information that must come from the data, and not from the prior.
LEAST_FROM_DATA = 0.2


@dataclass(frozen=True)
class Uncertainty:
    """Standard errors and correlation.

    Attributes:
        errors: of each number in its unit; None where it is not determined.
        reasons: why there is none; empty where there is one.
        correlation: between the numbers; None beside one that has no error.
    """

    errors: tuple[float | None, ...]
    reasons: tuple[str, ...]
    correlation: tuple[tuple[float | None, ...], ...]


def uncertainty(
    found: Information, unknowns: Unknowns, p: Tensor, scale: float = 1.0
) -> Uncertainty:
    """Errors from the inverse of the Schur complement, ``(scale · S⁻¹)_ii^½``.

    In units in which each number has the information 1 if the object is known, a direction is not
    determined if an unknown object leaves less than 1e-6 of that, or if of what is left less than
    a fifth comes from the data. A number whose variance is for the most part that of such
    directions has no error. Numbers at a bound are held; the errors of the others are for that.

    Args:
        found: at the solution.
        unknowns: names, bounds.
        p: the solution.
        scale: variance of the noise in units of that which was assumed.
    """
    count = len(unknowns)
    size = found.object_known.diagonal().sqrt()
    held = unknowns.at_bound(p)
    reasons = [
        AT_BOUND if at else "" if float(s) > 0 else "changes nothing in the data"
        for at, s in zip(held, size, strict=True)
    ]
    free = [i for i, why in enumerate(reasons) if not why]
    covariance = torch.full((count, count), torch.nan, dtype=torch.float64)
    if free:
        unit = size[free]
        inverse, doubtful = _inverse(
            found.schur[free][:, free] / unit / unit[:, None],
            found.from_data[free][:, free] / unit / unit[:, None],
        )
        covariance[torch.tensor(free)[:, None], torch.tensor(free)] = (
            scale * inverse / unit / unit[:, None]
        )
        for i, at in zip(free, doubtful, strict=True):
            width = float(unknowns.high[i] - unknowns.low[i])
            if at:
                reasons[i] = "not determined by these data"
            elif float(covariance[i, i]) ** 0.5 > width / 2:
                reasons[i] = "not determined within its bounds"
    known = [not why for why in reasons]
    errors = covariance.diagonal().sqrt()
    correlation = covariance / errors / errors[:, None]
    return Uncertainty(
        tuple(float(e) if ok else None for e, ok in zip(errors, known, strict=True)),
        tuple(reasons),
        tuple(
            tuple(float(correlation[i, j]) if known[i] and known[j] else None for j in range(count))
            for i in range(count)
        ),
    )


def _inverse(schur: Tensor, from_data: Tensor) -> tuple[Tensor, list[bool]]:
    """``S⁻¹``, and for each number whether directions that are not determined make it up."""
    values, vectors = torch.linalg.eigh(schur)
    safe = values.clamp_min(torch.finfo(torch.float64).eps)
    told = torch.einsum("ik,ij,jk->k", vectors, from_data, vectors) / safe
    lost = (values < LEAST_LEFT) | (told < LEAST_FROM_DATA)
    parts = vectors.square() / safe
    doubtful = parts[:, lost].sum(1) > parts.sum(1) / 2
    return vectors @ torch.diag(1 / safe) @ vectors.mT, doubtful.tolist()
