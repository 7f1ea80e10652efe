"""A scan as a real detector would have recorded it: counts, flats, darks and defects."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.instrument import Scan
from labrecon.noise import PoissonGaussian
from labrecon_ct.geometry import CTGeometry

__all__ = ["OPEN_BEAM", "simulated_counts"]

#: Photons per pixel and view where a geometry does not say.
OPEN_BEAM = 5e4
DARK = 100.0
ELECTRONIC = 5.0
FRAMES = 20


def simulated_counts(
    lines: Tensor,
    geometry: CTGeometry,
    generator: torch.Generator,
    *,
    truth: Tensor | None = None,
    drift: float = 0.0,
    gain_error: float = 0.0,
    dead: int = 0,
    zingers: int = 0,
) -> Scan:
    """Counts ``Poisson(N₀ d flat e^{−p}) + N(0, σ²) + dark`` with flats before and after.

    Args:
        lines: ``p``, of the geometry's data shape.
        geometry: the acquisition, with open_beam and dose.
        generator: of the noise.
        truth: the object.
        drift: relative change of the beam's profile during the scan.
        gain_error: relative scatter of the pixels' answer that flats miss (makes rings).
        dead: number of dead detector columns.
        zingers: number of bright single samples.
    """
    columns = geometry.columns
    pixels = (columns,) if geometry.rows is None else (geometry.rows, columns)
    beam = geometry.open_beam or OPEN_BEAM
    u = torch.linspace(-1, 1, columns)
    profile = (1 - 0.2 * u.square()) * (1 + 0.02 * torch.randn(pixels, generator=generator))
    late = profile * (1 + drift * u)
    views = len(geometry.angles)
    time = torch.linspace(0, 1, views)[:, None]
    response = 1 + gain_error * torch.randn(pixels, generator=generator)
    response[..., torch.randperm(columns, generator=generator)[:dead]] = 0.0
    alive = (response > 0).to(profile)
    seen = profile.unsqueeze(-2) * (1 - time) + late.unsqueeze(-2) * time
    dose = torch.ones(views) if geometry.dose is None else torch.tensor(geometry.dose)
    noise = PoissonGaussian(ELECTRONIC)

    def recorded(mean: Tensor) -> Tensor:
        return (noise.sample(mean, generator) + DARK).round().clamp_min(0)

    mean = beam * dose[:, None] * (seen * response.unsqueeze(-2)) * torch.exp(-lines)
    data = recorded(mean)
    if zingers:
        place = torch.randint(data.numel(), (zingers,), generator=generator)
        data.view(-1)[place] += beam * (0.5 + 2 * torch.rand(zingers, generator=generator))
    flats = torch.cat(
        [recorded((beam * p * alive).expand(FRAMES // 2, *pixels)) for p in (profile, late)]
    )
    darks = recorded(torch.zeros(FRAMES // 2, *pixels))
    half = torch.zeros(FRAMES // 2, dtype=torch.float64)
    return Scan(
        data,
        geometry,
        PoissonGaussian(ELECTRONIC, background=DARK),
        truth=truth,
        calibration={
            "flats": flats,
            "darks": darks,
            "flat_time": torch.cat([half, half + 1]),
            "view_time": torch.linspace(0, 1, views, dtype=torch.float64),
        },
        found={
            "open beam": f"{beam:g} photons per pixel",
            "electronic noise": f"{ELECTRONIC:g} e⁻",
        },
        provenance={"source": "simulated", "format": "simulation", "quantity": "counts"},
    )
