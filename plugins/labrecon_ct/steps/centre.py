"""The column onto which the rotation axis projects."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import Curve, StepError
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.redundancy import coverage, missing_columns
from labrecon_ct.steps.centre_scores import conjugate_scores, wedge_scores
from labrecon_ct.steps.requirements import geometry_of, not_applicable, require_integrals

__all__ = ["centre"]

#: Noise alone reaches 0.07; scans of objects, 0.4 and more.
LEAST_CONTRAST = 0.15
KEPT = "the file's centre is kept; set the column, or skip the step"


def centre(scan: Scan, *, column: float | None = None, search: float = 0.3) -> Scan:
    """Find the rotation centre, or set it.

    Full turns (parallel or fan, offset detectors too) compare each ray with its copy from the
    other side. Half turns are mirrored into full ones at many candidate centres; the right one has
    the least energy outside the double wedge of its Fourier transform (Vo, Drakopoulos, Atwood and
    Reinhard 2014). The best candidate of a coarse search is refined below a quarter of a column.
    Fans of less than a full turn, and cones, keep the centre of their geometry; so does a scan that
    does not tell: an axis within 8 columns of the edge of a half turn, or a score without minimum.

    Args:
        scan: line integrals ``([row,] angle, column)``.
        column: set the centre to this column, counted from 0, instead of searching.
        search: half width of the search, as a part of the detector (full turns: all of it).

    Raises:
        StepError: ``column`` is not on the detector, or the data are raw counts.
    """
    require_integrals(scan, "centre")
    geometry = geometry_of(scan)
    middle = (geometry.columns - 1) / 2
    if column is not None:
        if not 0 <= column <= geometry.columns - 1:
            raise StepError(f"column {column} is not on the detector (0 to {geometry.columns - 1})")
        moved = geometry.model_copy(update={"centre_offset": column - middle})
        return scan.replace(geometry=moved).with_step("centre", column=column, given=True)
    if not 0 < search <= 0.5:
        raise StepError(f"search is a part of the detector in (0, 0.5], got {search}")
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    full = coverage(angles) > 1.95 * math.pi
    reason = None
    if geometry.vectors is not None or geometry.kind == "cone":
        reason = f"no search for {geometry.kind} geometries: the file's centre is kept"
    elif geometry.beam == "cone" and not full:
        reason = "no search for fans of less than a full turn: the file's centre is kept"
    elif geometry.columns < 32 or len(angles) < 16 or coverage(angles) < 0.9 * math.pi:
        reason = f"too few columns or views for a search: {KEPT}"
    if reason:
        return not_applicable(scan, "centre", reason, column=geometry.centre_column)
    sinograms = _strongest_rows(scan.data)
    if full:
        tried, scores = conjugate_scores(sinograms, geometry)
        method = "conjugate rays"
    else:
        tried, scores = wedge_scores(sinograms, geometry, search)
        method = "energy outside the double wedge"
    if len(tried) < 3:
        why = f"the detector is too narrow for a search about column {geometry.centre_column:g}"
        return not_applicable(scan, "centre", f"{why}: {KEPT}", column=geometry.centre_column)
    best, contrast = _minimum(tried, scores)
    if contrast < LEAST_CONTRAST:
        why = f"the score has no clear minimum: {KEPT}"
        return not_applicable(scan, "centre", why, column=geometry.centre_column)
    if best in (float(tried[0]), float(tried[-1])):
        why = f"the score falls to the end of the search, column {best:g}: {KEPT}"
        return not_applicable(scan, "centre", why, column=geometry.centre_column)
    curve = Curve(
        "Rotation-centre search",
        tried.tolist(),
        scores.tolist(),
        "centre column",
        f"{method} (smaller is better)",
        best,
    )
    moved = _extended(geometry.model_copy(update={"centre_offset": best - middle}), full)
    return scan.replace(geometry=moved).with_step(
        "centre",
        curve=curve,
        column=best,
        method=method,
        contrast=contrast,
        volume=list(moved.volume_shape),
    )


def _extended(geometry: CTGeometry, full: bool) -> CTGeometry:
    """Half acquisition sees a wider circle than its detector: the default grid grows with it."""
    lacking = sum(missing_columns(geometry, torch.tensor(geometry.centre_offset))) if full else 0
    columns = geometry.columns
    if not lacking or geometry.volume_shape[-2:] != (columns, columns):
        return geometry
    plane = (columns + lacking, columns + lacking)
    return geometry.model_copy(update={"volume_shape": (*geometry.volume_shape[:-2], *plane)})


def _strongest_rows(data: Tensor, count: int = 2) -> Tensor:
    """The detector rows that see most of the object ``(row, angle, column)``."""
    if data.ndim == 2:
        return data[None]
    power = data.var(dim=(-2, -1))
    return data[power.topk(min(count, len(data))).indices]


def _minimum(tried: Tensor, scores: Tensor) -> tuple[float, float]:
    """The lowest candidate, refined by a parabola, and how far it lies below the median."""
    i = int(scores.argmin())
    contrast = float((scores.median() - scores[i]) / scores.median().abs().clamp_min(1e-12))
    if i in (0, len(scores) - 1):
        return float(tried[i]), contrast
    x, y = tried[i - 1 : i + 2], scores[i - 1 : i + 2]
    left, right = x[1] - x[0], x[2] - x[1]
    slope_left, slope_right = (y[1] - y[0]) / left, (y[2] - y[1]) / right
    curvature = (slope_right - slope_left) / (0.5 * (left + right))
    if float(curvature) <= 0:
        return float(x[1]), contrast
    slope = (slope_left * right + slope_right * left) / (left + right)
    return float(x[1] - (slope / curvature).clamp(-left, right)), contrast
