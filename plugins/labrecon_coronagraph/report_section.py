"""A section of the report: signal to noise around the star, and a list of what stands out."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Scan
from labrecon_coronagraph.adi import pca_adi
from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.derotation import sampled
from labrecon_coronagraph.detection import Detection, detections, snr_map
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.sky import offset

__all__ = ["around_the_star", "findings_around_the_star"]

#: Detections that the table shows.
SHOWN = 10
#: σ from which on a detection is one of the findings.
SURE = 5.0


@dataclass(frozen=True)
class _Fitted:
    """Planets fitted beside speckles: flux, flux over its deviation (y, x), what is found."""

    diameter: float
    flux: Tensor
    likeness: Tensor
    found: list[Detection]


def _fitted(scan: Scan) -> _Fitted | None:
    """None for other instruments, and where the star is still in the frames."""
    geometry = scan.geometry
    if not isinstance(geometry, CoronagraphGeometry) or geometry.speckles is None:
        return None
    diameter = full_width(geometry.psf.tensor(torch.float64))
    flux, sigma = matched_filter(scan)
    # In units of what it is known to, a planet is not drawn towards the brighter speckles inside.
    likeness = torch.where(sigma > 0, flux / sigma.clamp_min(1e-30), 0.0)
    found = detections(likeness, diameter, geometry.pixel_scale, threshold=3.0, summed=False)
    return _Fitted(diameter, flux, likeness, found)


def findings_around_the_star(data: Any) -> Mapping[str, float | str]:
    """Detections above 5σ, and where the most significant of them is.

    Nothing for other instruments, and where the star is still in the frames.

    Args:
        data: `labrecon.report.ReportData`.
    """
    fitted = _fitted(data.scan)
    if fitted is None:
        return {}
    sure = [one for one in fitted.found if one.significance >= SURE]
    told: dict[str, float | str] = {"detections": len(sure)}
    if sure:
        best = sure[0]
        told |= {
            "best separation (arcsec)": round(best.separation, 4),
            "best position angle (°)": round(best.position_angle, 2),
            "best S/N": round(best.snr, 2),
            "best significance (σ)": round(best.significance, 2),
        }
    return told


def around_the_star(data: Any) -> str:
    """HTML: S/N maps (Mawet et al. 2014) of a fitted planet and of PCA, and detections.

    Nothing for other instruments.

    Args:
        data: `labrecon.report.ReportData`.
    """
    scan: Scan = data.scan
    geometry = scan.geometry
    fitted = _fitted(scan)
    if fitted is None:
        return ""
    assert isinstance(geometry, CoronagraphGeometry)
    assert geometry.speckles is not None
    diameter, found = fitted.diameter, fitted.found
    modes = geometry.speckles.shape[2] - 1
    # The data are without their speckles already: no more components.
    classical = pca_adi(scan.data, geometry, modes=0)
    shown = {
        "planet fitted beside speckles": snr_map(fitted.likeness, diameter, summed=False),
        f"PCA with {modes} components": snr_map(classical, diameter),
    }
    return (
        "<p>Signal to noise of a planet at each place by the small-sample statistics of Mawet et "
        "al. 2014, in apertures of one full width at half maximum. North is up, east left. A "
        "significance of 5 is one false alarm in 3.5 million places; of a map's hundreds of places "
        "one or two reach 3 by chance. Where the projection of the speckles leaves too little of a "
        "planet nothing is shown. What one of the maps shows alone, try with fewer components.</p>"
        + _picture(shown, found, geometry, diameter)
        + "<h3>Fitted beside speckles</h3>"
        + _table(found, geometry, fitted.flux)
        + "<h3>PCA</h3>"
        + _table(detections(classical, diameter, geometry.pixel_scale, threshold=3.0), geometry)
    )


def _table(
    found: list[Detection], geometry: CoronagraphGeometry, flux: Tensor | None = None
) -> str:
    if not found:
        return "<p>Nothing stands out by more than 3 σ.</p>"
    head = ["separation (arcsec)", "position angle (°)", "S/N", "significance (σ)"]
    if flux is not None:
        head.append("flux" if geometry.star_flux is None else "contrast")
    rows = []
    for one in found[:SHOWN]:
        cells = [f"{one.separation:.3f}", f"{one.position_angle:.1f}", f"{one.snr:.1f}"]
        cells.append(f"{one.significance:.1f}")
        if flux is not None:
            cells.append(f"{_at(flux, one, geometry):.3g}")
        rows.append(cells)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    more = f"<p>{len(found) - SHOWN} more above 3 σ.</p>" if len(found) > SHOWN else ""
    return f'<div class="table"><table><tr>{titles}</tr>{body}</table></div>{more}'


def _at(flux: Tensor, one: Detection, geometry: CoronagraphGeometry) -> float:
    """Flux at a detection, relative to the star where its flux is known."""
    y, x = offset(1000 * one.separation / geometry.pixel_scale, one.position_angle)
    middle = [(n - 1) / 2 for n in flux.shape]
    place = torch.tensor([y + middle[0]]), torch.tensor([x + middle[1]])
    return float(sampled(flux, *place)[0]) / (geometry.star_flux or 1.0)


def _picture(
    maps: dict[str, Tensor], found: list[Detection], geometry: CoronagraphGeometry, diameter: float
) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(maps), 4.6), layout="constrained")
    scale = geometry.pixel_scale / 1000
    for axes, (title, values) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        ny, nx = values.shape
        extent = [s * scale / 2 for s in (-nx, nx, -ny, ny)]
        shown = axes.imshow(
            values.numpy(), origin="lower", extent=extent, cmap="inferno", vmin=-2, vmax=6
        )
        figure.colorbar(shown, ax=axes, label="S/N", shrink=0.8)
        for one in found[:SHOWN]:
            y, x = offset(one.separation, one.position_angle)
            turn = torch.linspace(0, 2 * math.pi, 60)
            radius = diameter * scale
            axes.plot(x + radius * turn.cos(), y + radius * turn.sin(), "w", lw=1)
        axes.plot(0, 0, "w*", ms=8)
        axes.set(title=title, xlabel="arcsec (west to the right)", ylabel="arcsec")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="signal to noise" style="max-width:100%" src="data:image/png;base64,{picture}">'
    )
