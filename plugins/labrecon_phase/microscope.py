"""What both models of the microscope have: LEDs, pupil, grids, designs and nuisances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon.design import Box
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_patterns import LEDPatterns
from labrecon_phase.pupil import ZERNIKES, pupil

__all__ = ["Microscope"]


class Microscope(Operator):
    """Base of `AbbeImaging` and `WeakObject`.

    Designs: ``patterns`` (exposure, led). Nuisances: ``led_shift`` (x, y) in mm, ``led_rotation``
    in degrees, ``led_height`` in mm, and ``zernike`` in rad, by Noll's index from 1 on.

    Args:
        geometry: the acquisition.
        domain: of the object.
        dtype: of real numbers.
    """

    leds: Tensor
    led_shift: Tensor
    led_rotation: Tensor
    led_height: Tensor
    zernike: Tensor
    patterns: Tensor

    def __init__(self, geometry: PhaseGeometry, domain: Space, dtype: torch.dtype) -> None:
        super().__init__(
            domain, Space((geometry.exposures, *geometry.shape), dtype, ("exposure", "y", "x"))
        )
        self.geometry = geometry
        self.real = dtype
        self.register_buffer("leds", geometry.leds.tensor(torch.float64))
        shift = torch.tensor(geometry.led_shift, dtype=torch.float64)
        self.nuisance("led_shift", shift, Box(unit="mm"), numbers=("x", "y"))
        rotation = torch.tensor(geometry.led_rotation, dtype=torch.float64)
        self.nuisance("led_rotation", rotation, Box(unit="deg"))
        height = torch.tensor(geometry.led_height, dtype=torch.float64)
        self.nuisance("led_height", height, Box(unit="mm"))
        coefficients = torch.zeros(ZERNIKES, dtype=torch.float64)
        coefficients[: len(geometry.aberration)] = coefficients.new_tensor(geometry.aberration)
        noll = [f"Z{j}" for j in range(1, ZERNIKES + 1)]
        self.nuisance("zernike", coefficients, Box(unit="rad"), numbers=noll)
        patterns = geometry.patterns.tensor(dtype)
        self.design("patterns", patterns, LEDPatterns(self._allowed(), geometry.levels))

    def _allowed(self) -> Tensor:
        """(exposure, led): which LEDs the bands let a designed exposure light."""
        geometry = self.geometry
        bright = self._bright(geometry.na)
        named = {"bright": bright, "dark": ~bright, "any": torch.ones_like(bright)}
        bands = geometry.bands or ("any",) * geometry.exposures
        return torch.stack([named[band] for band in bands]).double()

    def _bright(self, na: float) -> Tensor:
        with torch.no_grad():
            radius = torch.linalg.vector_norm(self.frequencies(), dim=1)
        return radius <= na / self.geometry.wavelength * (1 + 4e-7)

    def frequencies(self) -> Tensor:
        """``ν`` of each LED (led, 2) along (y, x) in 1/µm, in double precision."""
        turn = torch.deg2rad(self.led_rotation)
        x, y, z = self.leds.unbind(1)
        c, s = turn.cos(), turn.sin()
        x, y = c * x - s * y + self.led_shift[0], s * x + c * y + self.led_shift[1]
        z = z + self.led_height
        sign = -1.0 if self.geometry.flip_illumination else 1.0
        scale = sign / (self.geometry.wavelength * (x * x + y * y + z * z).sqrt())
        return torch.stack([y * scale, x * scale], 1)

    @property
    def spacing(self) -> tuple[float, float]:
        """Of the spectrum's grid along (y, x) in 1/µm."""
        rows, columns = self.geometry.object_shape
        pixel = self.geometry.object_pixel
        return 1 / (rows * pixel), 1 / (columns * pixel)

    @property
    def rim(self) -> float:
        """Width of the pupil's edge in 1/µm."""
        return self.geometry.edge * max(self.spacing)

    def pupil(self, y: Tensor, x: Tensor) -> Tensor:
        """``P`` at frequencies in 1/µm."""
        geometry = self.geometry
        return pupil(
            y,
            x,
            wavelength=geometry.wavelength,
            na=geometry.na,
            index=geometry.index,
            defocus=geometry.defocus,
            zernikes=self.zernike,
            edge=self.rim,
        )

    def to_camera(self, coefficients: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Images on the camera from Fourier coefficients of what falls onto it.

        Each pixel integrates over its sensitive side; frequencies beyond the camera's band fold
        back, as they do in a camera that samples too coarsely.

        Args:
            coefficients: (…, row, column), complex; 1 at frequency 0 is an even 1.
            rows: whole numbers: frequencies along y in units of the grid's spacing.
            columns: along x.
        """
        height, width = self.geometry.shape
        if self.geometry.pixel_fill:
            coefficients = coefficients * self._blur(rows, columns)
        lead = coefficients.shape[:-2]
        folded = coefficients.new_zeros(*lead, height, coefficients.shape[-1])
        folded = folded.index_add(-2, rows.remainder(height), coefficients)
        spectrum = coefficients.new_zeros(*lead, height, width)
        spectrum = spectrum.index_add(-1, columns.remainder(width), folded)
        return torch.fft.ifft2(spectrum, norm="forward").real

    def _blur(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Transfer function of a camera pixel (row, column)."""
        height, width = self.geometry.shape
        fill = self.geometry.pixel_fill
        along_y = torch.sinc(fill * rows.to(self.real) / height)
        return along_y[:, None] * torch.sinc(fill * columns.to(self.real) / width)

    def window(self, reach: float) -> tuple[int, int]:
        """Samples along (y, x) of a window that holds a disc of a radius in 1/µm, wherever."""
        return tuple(math.floor(2 * reach / d) + 2 for d in self.spacing)  # type: ignore[return-value]
