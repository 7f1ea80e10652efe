"""The geometry of a coronagraph's optics: telescope, masks, image, unknown aberrations."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from labrecon import Array
from labrecon_coronagraph.geometry import MAS

__all__ = ["OpticsGeometry"]


class OpticsGeometry(BaseModel):
    """Optics from the telescope to the image, and the aberrations that are not known.

    Pupil planes are (y, x) arrays whose width is the diameter of the telescope. Images have the
    star in their middle; their unit is the peak of the star without focal-plane mask and apodizer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    samples: int = Field(128, ge=16, description="of a pupil plane along each axis")
    pupil: Literal["circular", "vlt", "segmented"] | Array = Field(
        "circular", description="of the telescope; or its transmission (y, x)"
    )
    obscuration: float = Field(0.0, ge=0, lt=1, description="of a circular pupil, in diameters")
    diameter: float = Field(8.0, gt=0, description="of the telescope in m")
    wavelength: float = Field(1.593, gt=0, lt=40, description="in the middle of the band, in µm")
    bandwidth: float = Field(0.0, ge=0, lt=1, description="of the filter, relative to wavelength")
    colours: int = Field(1, ge=1, description="wavelengths by which the band is sampled")
    mask: Literal["disc", "vortex", "none"] = Field("disc", description="in the focal plane")
    mask_radius: float = Field(92.5, gt=0, description="of the disc in mas")
    charge: int = Field(2, description="of the vortex")
    apodizer: Literal["none", "prolate"] | Array = Field(
        "prolate", description="in the pupil; or its amplitude (y, x), 0 to 1"
    )
    dots: bool = Field(False, description="the apodizer is printed: its samples are open or closed")
    lyot_stop: float | Array = Field(
        1.0, description="diameter of a round one times the pupil; or its transmission (y, x)"
    )
    phase: Array | None = Field(None, description="of a phase plate in the pupil (y, x) in rad")
    actuators: int = Field(0, ge=0, description="of the deformable mirror across the pupil")
    commands: Array | None = Field(None, description="of the actuators over the pupil in nm")
    spots: tuple[tuple[float, float, float], ...] = Field(
        (),
        description="waffle of the mirror, for satellite spots: cycles per aperture along y and x, "
        "and amplitude in nm, of each sinusoid",
    )
    stroke: float = Field(3500.0, gt=0, description="largest command of an actuator in nm")
    between: float = Field(1000.0, gt=0, description="largest step to the next actuator in nm")
    pixels: int = Field(64, ge=8, description="of an image along each axis")
    pixel_scale: float = Field(12.25, gt=0, description="mas per pixel")
    frames: int = Field(1, ge=1, description="of a sequence")
    diversity: tuple[float, ...] = Field(
        (0.0,), min_length=1, description="defocus of each image of a frame in nm rms"
    )
    modes: int = Field(20, ge=1, description="unknown aberrations: Zernike modes from tip on")
    aberration: float = Field(30.0, ge=0, description="of a usual sample, in nm rms")
    jitter: float = Field(0.0, ge=0, description="of tip and tilt of a usual sample, in mas rms")
    photons: float = Field(1e7, gt=0, description="electrons in the peak of the star")
    read_noise: float = Field(10.0, ge=0, description="of the detector in electrons")
    sky: float = Field(0.0, ge=0, description="background in electrons per pixel")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("pupil", "apodizer", "lyot_stop", "phase"):
            self._check_plane(name, getattr(self, name))
        if (self.bandwidth > 0) != (self.colours > 1):
            raise ValueError(
                f"bandwidth {self.bandwidth:g} and {self.colours} colours: a band needs at least 2 "
                "colours, one colour no bandwidth"
            )
        if self.mask != "disc" and self.apodizer == "prolate":
            raise ValueError(
                f"a prolate apodizer is made for a disc, not for mask = {self.mask!r}: give "
                '"apodizer": "none"'
            )
        if self.mask == "vortex" and (self.charge == 0 or self.charge % 2):
            raise ValueError(f"the charge of a vortex is even, got {self.charge}")
        if self.commands is not None and (self.commands.ndim != 1 or not self.actuators):
            raise ValueError("commands are (actuator,), and need actuators across the pupil")
        return self

    def _check_plane(self, name: str, value: object) -> None:
        if not isinstance(value, Array):
            return
        expected = (self.samples, self.samples)
        if value.shape != expected or np.iscomplexobj(value.values):
            raise ValueError(f"{name} is real (y, x) of {expected}, got {value.shape}")
        low, high = float(value.values.min()), float(value.values.max())
        if name != "phase" and (low < 0 or high > 1 or high == 0):
            raise ValueError(f"{name} goes from 0 to 1, got {low:.4g} to {high:.4g}")

    @property
    def resolution(self) -> float:
        """``λ0/D`` in mas."""
        return self.wavelength * 1e-6 / self.diameter * MAS

    @property
    def wavelengths(self) -> tuple[float, ...]:
        """``λ/λ0`` in the middle of equal parts of the band."""
        n = self.colours
        return tuple(1 + self.bandwidth * ((k + 0.5) / n - 0.5) for k in range(n))

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked."""
        return type(self).model_validate({**dict(self), **changes})
