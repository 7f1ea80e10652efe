"""The geometry of an LED-array microscope: optics, LEDs, and what each exposure lights."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from labrecon import Array

__all__ = ["Band", "PhaseGeometry"]

Band = Literal["bright", "dark", "any"]


class PhaseGeometry(BaseModel):
    """One acquisition: lengths at sample and camera in µm, LED positions in mm, angles in degrees.

    An LED at ``(X, Y, Z)`` mm from the sample lights it by the plane wave ``exp(i2π ν·r)`` with
    ``ν = (Y, X) / |(X, Y, Z)| / λ`` along the axes (y, x) of the image, y growing downwards. The
    object is ``exp(a + iφ)``; thicker is a larger ``φ``. Where a phase comes out inverted the array
    is seen from its other side: set ``flip_illumination``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: tuple[int, int] = Field(description="camera pixels (y, x)")
    wavelength: float = Field(gt=0, description="in vacuum, in µm")
    na: float = Field(gt=0, description="numerical aperture of the objective")
    magnification: float = Field(gt=0, description="from sample to camera")
    camera_pixel: float = Field(gt=0, description="pixel pitch of the camera in µm")
    index: float = Field(1.0, ge=1, description="refractive index of the immersion")
    defocus: float = Field(0.0, description="distance of the sample from focus in µm")
    leds: Array = Field(description="LED positions (led, 3): x, y, z from the sample in mm")
    led_shift: tuple[float, float] = Field((0.0, 0.0), description="of the array, (x, y) in mm")
    led_rotation: float = Field(0.0, description="of the array about the optical axis in degrees")
    led_height: float = Field(0.0, description="added to the distance of the array, in mm")
    patterns: Array = Field(description="brightness of each LED in each exposure (exposure, led)")
    bands: tuple[Band, ...] | None = Field(
        None, description="which LEDs a designed exposure may light; by default any"
    )
    levels: int = Field(256, ge=2, description="brightness levels of an LED, off included")
    aberration: tuple[float, ...] = Field(
        (), description="Zernike coefficients of the pupil in rad rms, by Noll's index from 1 on"
    )
    edge: float = Field(
        0.0, ge=0, description="width of the pupil's edge in spacings of the spectrum's grid"
    )
    background: tuple[float, ...] | None = Field(
        None, description="stray light of each exposure, in units of the data"
    )
    pixel_fill: float = Field(
        1.0, ge=0, le=1, description="side of a camera pixel that collects light, in pitches"
    )
    upsample: int | None = Field(
        None, ge=1, description="object pixels per camera pixel and axis; by default as few as do"
    )
    sample: Literal["phase", "absorbing", "field"] = Field(
        "phase",
        description="what is unknown: φ; (φ, a); or the complex transmission",
    )
    quantity: Literal["intensity", "contrast"] = Field(
        "intensity",
        description="what data are: intensity, 1 for the empty field under an LED of brightness 1; "
        "or contrast I / I₀ − 1, for the linear model of weak objects",
    )
    electrons: float | None = Field(
        None, gt=0, description="photoelectrons per pixel at an intensity of 1"
    )
    read_noise: float = Field(1.5, ge=0, description="of the camera in electrons")
    sigma: float | None = Field(
        None, gt=0, description="noise of the data where electrons are not known"
    )
    flip_illumination: bool = Field(False, description="LED coordinates are those of the far side")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shape) < 2:
            raise ValueError(f"shape is (y, x) of at least 2 pixels, got {self.shape}")
        if self.na >= self.index:
            raise ValueError(
                f"an objective of NA {self.na} does not exist at a refractive index of {self.index}"
            )
        if self.leds.ndim != 2 or self.leds.shape[1] != 3 or np.iscomplexobj(self.leds.values):
            raise ValueError(f"leds are (led, 3): x, y, z in mm; got shape {self.leds.shape}")
        if bool((self.leds.values[:, 2] + self.led_height <= 0).any()):
            raise ValueError(
                "every LED is at a positive distance z from the sample in mm: z is its third number"
            )
        count = len(self.leds.values)
        if self.patterns.ndim != 2 or self.patterns.shape[1] != count:
            raise ValueError(
                f"patterns are (exposure, led) for {count} LEDs, got {self.patterns.shape}"
            )
        if np.iscomplexobj(self.patterns.values) or bool((self.patterns.values < 0).any()):
            raise ValueError("the brightness of an LED is real and not negative")
        if not bool((self.patterns.values.sum(1) > 0).all()):
            raise ValueError("in every exposure an LED must be on")
        for name, given in (("bands", self.bands), ("background", self.background)):
            if given is not None and len(given) != self.exposures:
                raise ValueError(
                    f"{name}: one for each of {self.exposures} exposures, got {len(given)}"
                )
        if len(self.aberration) > 15:
            raise ValueError("aberrations are given by at most 15 Zernike coefficients")
        return self

    @property
    def exposures(self) -> int:
        """Number of images."""
        return self.patterns.shape[0]

    @property
    def pixel(self) -> float:
        """Pitch of the camera's pixels at the sample in µm."""
        return self.camera_pixel / self.magnification

    @property
    def illumination_na(self) -> float:
        """The largest numerical aperture of an LED that is lit, or may be."""
        x, y, z = self._positions()
        own = np.hypot(x, y) / np.sqrt(x * x + y * y + z * z)
        lit = (self.patterns.values > 0).any(0)
        return float(own[lit].max())

    def _positions(self) -> Any:
        turn = math.radians(self.led_rotation)
        x, y, z = self.leds.values.T
        return (
            math.cos(turn) * x - math.sin(turn) * y + self.led_shift[0],
            math.sin(turn) * x + math.cos(turn) * y + self.led_shift[1],
            z + self.led_height,
        )

    @property
    def upsampling(self) -> int:
        """Object pixels per camera pixel: ``upsample``, or as many as hold every spectrum."""
        if self.upsample is not None:
            return self.upsample
        x, y, z = self._positions()
        # Brightness is learned: a dark LED may be lit later, in a band that it may be in.
        own = np.hypot(x, y) / np.sqrt(x * x + y * y + z * z)
        reach = self.na + float(own.max())
        margin = (2 + self.edge) / (min(self.shape) * self.pixel)
        return max(1, math.ceil(2 * self.pixel * (reach / self.wavelength + margin) - 1e-9))

    @property
    def object_shape(self) -> tuple[int, int]:
        """Pixels of the object."""
        rows, columns = self.shape
        return rows * self.upsampling, columns * self.upsampling

    @property
    def object_pixel(self) -> float:
        """Pitch of the object's pixels in µm."""
        return self.pixel / self.upsampling

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked."""
        return type(self).model_validate({**dict(self), **changes})
