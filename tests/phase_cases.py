"""A microscope for tests, and its image formation written from the definition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labrecon_phase.geometry import PhaseGeometry

F64, C128 = torch.float64, torch.complex128
WAVELENGTH, NA = 0.5, 0.25
#: Rad rms by Noll's index: no piston or tilt, some defocus, astigmatism, coma and spherical.
ABERRATION = (0.0, 0.0, 0.0, 0.3, -0.2, 0.1, 0.15, -0.25, 0.0, 0.0, 0.2)
#: Where LEDs may stand: two in the middle, three near the rim of the bright field, two in the dark.
SINES = ((0.013, -0.02), (-0.07, 0.11), (0.21, 0.04), (-0.2, 0.1), (0.03, -0.231), (0.3, 0.1),
         (-0.12, -0.29))  # fmt: skip


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def leds_at(sines: Any, distance: float = 60.0) -> Tensor:
    """LEDs on a sphere in mm from direction sines (led, 2) along (y, x)."""
    y, x = torch.as_tensor(sines, dtype=F64).unbind(1)
    return distance * torch.stack([x, y, (1 - x * x - y * y).sqrt()], 1)


def microscope(sines: Any = SINES, **fields: Any) -> PhaseGeometry:
    """24 × 28 pixels of 0.4 µm; two exposures of all LEDs, unless other fields are given."""
    leds = leds_at(sines)
    known = {
        "shape": (24, 28),
        "wavelength": WAVELENGTH,
        "na": NA,
        "magnification": 10.0,
        "camera_pixel": 4.0,
        "leds": leds,
        "patterns": 0.2 + uniform(2, len(leds)),
    }
    return PhaseGeometry.model_validate(known | fields)


def on_grid_sines(shape: tuple[int, int], pixel: float, reach: float) -> Tensor:
    """Direction sines of all LEDs whose frequency is a sample of the spectrum's grid."""
    steps = [torch.arange(-(n // 2), (n + 1) // 2, dtype=F64) / (n * pixel) for n in shape]
    y, x = torch.meshgrid(*steps, indexing="ij")
    return WAVELENGTH * torch.stack([y, x], -1)[torch.hypot(y, x) < reach / WAVELENGTH]


def lens(y: Tensor, x: Tensor, geometry: PhaseGeometry, aberration: Any = None) -> Tensor:
    """The pupil from closed forms of Zernike's polynomials (Noll 1976, table I), a hard rim."""
    cut = geometry.na / geometry.wavelength
    rho, angle = torch.hypot(x, y) / cut, torch.atan2(y, x)
    table = {
        4: math.sqrt(3) * (2 * rho**2 - 1),
        5: math.sqrt(6) * rho**2 * (2 * angle).sin(),
        6: math.sqrt(6) * rho**2 * (2 * angle).cos(),
        7: math.sqrt(8) * (3 * rho**3 - 2 * rho) * angle.sin(),
        8: math.sqrt(8) * (3 * rho**3 - 2 * rho) * angle.cos(),
        11: math.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1),
    }
    given = geometry.aberration if aberration is None else aberration
    phase = sum((c * table[j] for j, c in enumerate(given, 1) if c), torch.zeros_like(rho))
    depth = ((geometry.index / geometry.wavelength) ** 2 - x * x - y * y).clamp_min(0).sqrt()
    return (rho <= 1) * torch.exp(1j * (phase + 2 * math.pi * geometry.defocus * depth))


def frequencies(geometry: PhaseGeometry) -> Tensor:
    """``ν`` (led, 2) of each LED from its position, along (y, x)."""
    leds = geometry.leds.tensor(F64)
    return leds[:, [1, 0]] / leds.norm(dim=1, keepdim=True) / geometry.wavelength


def spectrum_grid(geometry: PhaseGeometry) -> tuple[Tensor, Tensor]:
    ticks = [torch.fft.fftfreq(n, geometry.object_pixel, dtype=F64) for n in geometry.object_shape]
    return ticks[0][:, None], ticks[1]


def brute_force(
    geometry: PhaseGeometry, transmission: Tensor, offset: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Images (exposure, y, x), a transform of full size for each LED.

    At points that lie ``offset`` (y, x) µm from the camera pixels' middles.
    """
    y, x = spectrum_grid(geometry)
    spectrum = torch.fft.fft2(transmission)
    moved = torch.exp(2j * math.pi * (y * offset[0] + x * offset[1]))
    every = geometry.upsampling
    images = []
    for at_y, at_x in frequencies(geometry):
        # The plane wave's own ramp has no part in |ψ|².
        field = torch.fft.ifft2(lens(y + at_y, x + at_x, geometry) * spectrum * moved)
        images.append(field.abs().square()[..., ::every, ::every])
    return torch.einsum("jl,...lyx->...jyx", geometry.patterns.tensor(F64), torch.stack(images, -3))


def smooth(shape: tuple[int, int], peak: float, width: float = 0.1) -> Tensor:
    """A round object in the middle (y, x), soft as a Gaussian; ``peak`` in rad."""
    y, x = ((torch.arange(n, dtype=F64) + 0.5) / n - 0.5 for n in shape)
    return peak * torch.exp(-(y[:, None] ** 2 + x**2) / (2 * width**2))


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())
