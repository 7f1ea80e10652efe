"""The geometry of a coronagraphic sequence: pixels, star, rotation of the sky, off-axis PSF."""

from __future__ import annotations

import itertools
import math
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from labrecon import Array

__all__ = ["MAS", "CoronagraphGeometry"]

#: Milliarcseconds of a radian.
MAS = 180 / math.pi * 3.6e6


class CoronagraphGeometry(BaseModel):
    """One sequence in pupil tracking: the star and its speckles stay, the sky turns.

    Frames are (y, x) with y growing upwards; pixels count from 0. A position angle goes from +y
    towards −x. What lies at the position angle ``PA`` on the sky lies at ``PA − angles[t]`` in
    frame ``t``; maps of the sky have north up and the star in their middle, ``(n − 1) / 2``.

    The flux of a point source is the peak of its image, far from the mask, in the unit of the data:
    ``psf`` is 1 in its middle pixel. A contrast is a flux over ``star_flux``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: tuple[int, int] = Field(description="pixels of a frame (y, x)")
    field: tuple[int, int] | None = Field(
        None, description="pixels of the map of the sky (y, x); by default those of a frame"
    )
    pixel_scale: float = Field(gt=0, description="mas per pixel")
    wavelength: float = Field(gt=0, description="in µm")
    diameter: float = Field(8.2, gt=0, description="of the telescope in m")
    angles: tuple[float, ...] = Field(
        description="of each frame in degrees: position angle on the sky minus that in the frame"
    )
    centre: tuple[float, float] = Field(description="of the star (y, x) in pixels")
    psf: Array = Field(
        description="image of an off-axis star (y, x), of odd size, 1 in its middle pixel"
    )
    exposure: float | None = Field(None, gt=0, description="of a frame in s")
    smear: float = Field(
        0.0, ge=0, lt=90, description="rotation of the sky within one exposure in degrees"
    )
    transmission: tuple[tuple[float, float], ...] = Field(
        (),
        description="(separation in mas, transmission) of the coronagraph off its axis, by "
        "increasing separation; 1 everywhere by default",
    )
    star_flux: float | None = Field(
        None, gt=0, description="peak of the star without the mask, in the unit of the data"
    )
    sigma: float | None = Field(
        None, gt=0, description="standard deviation of a pixel's noise, in the unit of the data"
    )
    gain: float | None = Field(None, gt=0, description="electrons per unit of the data")
    read_noise: float = Field(0.0, ge=0, description="of the detector in electrons")
    annuli: tuple[float, ...] = Field(
        (),
        description="radii in pixels between the annuli in which speckles are modelled, "
        "from the inner edge of the first to the outer one of the last",
    )
    speckles: Array | None = Field(
        None, description="courses of the speckles in time (annulus, frame, mode), orthonormal"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, shape in (("shape", self.shape), ("field", self.field_shape)):
            if min(shape) < 5:
                raise ValueError(f"{name} is (y, x) of at least 5 pixels, got {shape}")
        if not self.angles:
            raise ValueError("angles: one for each frame, got none")
        for name, at, size in zip("yx", self.centre, self.shape, strict=True):
            if not 0 <= at <= size - 1:
                raise ValueError(
                    f"the star's centre is off the frame: {name} = {at:g} of {size} pixels"
                )
        self._check_psf()
        separations = [separation for separation, _ in self.transmission]
        if any(b <= a for a, b in itertools.pairwise(separations)):
            raise ValueError("transmission: separations in mas increase, got " + str(separations))
        if any(value < 0 for _, value in self.transmission):
            raise ValueError("transmission is not negative")
        self._check_speckles()
        return self

    def _check_psf(self) -> None:
        psf = self.psf.values
        if psf.ndim != 2 or np.iscomplexobj(psf) or any(n % 2 == 0 for n in psf.shape):
            raise ValueError(f"psf is a real image (y, x) of odd size, got shape {psf.shape}")
        middle = float(psf[psf.shape[0] // 2, psf.shape[1] // 2])
        if abs(middle - 1) > 1e-3 or float(psf.max()) > 1.001:
            raise ValueError(
                f"psf is 1 in its middle pixel, its maximum; there it is {middle:.4g}, its maximum "
                f"{float(psf.max()):.4g}: centre it, and divide by its peak"
            )

    def _check_speckles(self) -> None:
        edges = self.annuli
        if edges and (len(edges) < 2 or edges[0] < 0):
            raise ValueError(f"annuli: at least two radii that are not negative, got {edges}")
        if any(b <= a for a, b in itertools.pairwise(edges)):
            raise ValueError(f"annuli: radii in pixels increase, got {edges}")
        if (self.speckles is None) != (not edges):
            raise ValueError("speckles and annuli are given together")
        if self.speckles is None:
            return
        values = self.speckles.values
        if values.ndim != 3 or values.shape[:2] != (len(edges) - 1, self.frames):
            raise ValueError(
                f"speckles are (annulus, frame, mode) = ({len(edges) - 1}, {self.frames}, mode), "
                f"got {values.shape}"
            )
        gram = np.swapaxes(values, 1, 2) @ values
        if not np.allclose(gram, np.eye(values.shape[2]), atol=1e-4):
            raise ValueError("speckles: the modes of an annulus are orthonormal over the frames")

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.angles)

    @property
    def field_shape(self) -> tuple[int, int]:
        """Pixels of the map of the sky (y, x)."""
        return self.shape if self.field is None else self.field

    @property
    def resolution(self) -> float:
        """``λ/D`` in pixels."""
        return self.wavelength * 1e-6 / self.diameter * MAS / self.pixel_scale

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked."""
        return type(self).model_validate({**dict(self), **changes})
