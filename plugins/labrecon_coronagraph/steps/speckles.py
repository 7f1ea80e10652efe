"""Speckles: their courses in time, found in the data and taken out of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon import Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.injection import Planet, planet_frames
from labrecon_coronagraph.sky import radii
from labrecon_coronagraph.speckles import (
    SpeckleProjection,
    annulus_labels,
    temporal_modes,
    whole_field,
)
from labrecon_coronagraph.steps.requirements import geometry_of

__all__ = ["speckles"]


def speckles(
    scan: Scan,
    *,
    modes: int | None = None,
    inner: float | None = None,
    outer: float | None = None,
    width: float | None = None,
    planets: Sequence[Sequence[float]] = (),
) -> Scan:
    """Take the leading courses in time out of the data, and tell the operator to do likewise.

    The geometry gets the courses; the operator that is made of it has them projected out of its
    planets, too. The noise becomes that of what is left, in rings of one pixel: weights are 1 in
    the quietest and ``(σ_least / σ)²`` elsewhere.

    Args:
        scan: frames, centred (step ``centre``), each pixel with the same weight in all of them.
        modes: principal components besides the mean in time; by default a quarter of the frames, up
            to 15. More take the planets, too.
        inner: radius in pixels inside which nothing is modelled; ``λ/D`` by default.
        outer: where the model ends; the largest circle on the frame by default.
        width: of annuli with courses of their own in pixels; one annulus by default.
        planets: ``[separation in arcsec, position angle in degrees, flux]`` of known ones, which
            are not to bend the components; they stay in the data.

    Raises:
        StepError: done before, weights that change in time, or numbers that do not fit.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("speckles were taken out already: leave one of the steps out")
    planets = [_planet(values) for values in planets]
    modes = min(15, geometry.frames // 4) if modes is None else modes
    first, last = whole_field(geometry)
    first, last = (first if inner is None else inner), (last if outer is None else outer)
    if not 0 <= first < last:
        raise StepError(f"annuli from {first:g} to {last:g} pixels: inner is less than outer")
    edges = [first]
    if width is not None:
        if not width > 0:
            raise StepError(f"width is positive, got {width:g}")
        # The last annulus takes what is left over.
        edges += [first + k * width for k in range(1, int((last - first) / width + 1e-9))]
    edges.append(last)
    mask = _mask(scan)
    labels = torch.where(mask > 0, annulus_labels(geometry.shape, geometry.centre, edges), -1)
    try:
        known = planet_frames(geometry, [Planet(*planet) for planet in planets])
        components = temporal_modes(scan.data - known.to(scan.data), labels, modes)
    except (TypeError, ValueError) as error:
        raise StepError(str(error)) from error
    data = SpeckleProjection(labels, components.to(scan.data.dtype))(scan.data)
    deviation = _deviation(data, labels, radii(geometry.shape, geometry.centre), modes)
    used = labels >= 0
    least = float(deviation[used].min())
    if not least > 0:
        raise StepError("nothing is left of some ring: fewer modes, or is the detector dead there?")
    weights = torch.where(used, (least / deviation).square(), 0.0).to(scan.data.dtype)
    return scan.replace(
        data=data,
        geometry=geometry.changed(annuli=tuple(edges), speckles=components, sigma=least),
        weights=(weights * mask).unsqueeze(0),
        noise=Gaussian(least),
    ).with_step(
        "speckles",
        modes=modes,
        planets=[list(planet) for planet in planets],
        annuli=[float(f"{edge:.4g}") for edge in edges],
        sigma=least,
        largest_sigma=float(deviation[used].max()),
    )


def _planet(values: Sequence[float]) -> list[float]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise StepError(
            f"planets is a list of [separation in arcsec, position angle in degrees, flux in the "
            f"unit of the data] each; got {values}"
        )
    return [float(value) for value in values]


def _mask(scan: Scan) -> Tensor:
    """Weights (y, x)."""
    if scan.weights is None:
        return torch.ones_like(scan.data[0])
    weights = scan.weights.expand_as(scan.data)
    if bool((weights != weights[:1]).any()):
        raise StepError(
            "weights change from frame to frame, which no projection of courses in time respects: "
            "put bad_frames and bad_pixels before speckles"
        )
    return weights[0]


def _deviation(data: Tensor, labels: Tensor, radius: Tensor, modes: int) -> Tensor:
    """Robust standard deviation (y, x) of what is left, in rings of one pixel."""
    rings = radius.round().long()
    found = torch.ones_like(radius)
    # The projection took so many degrees of freedom.
    freedom = len(data) / (len(data) - modes - 1)
    for ring in rings[labels >= 0].unique():
        here = (rings == ring) & (labels >= 0)
        values = data[:, here].double().flatten()
        found[here] = 1.4826 * float(values.abs().median()) * freedom**0.5
    return found
