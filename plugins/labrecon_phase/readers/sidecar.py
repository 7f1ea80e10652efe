"""The JSON file that says what a stack of images can not: LEDs, exposures, microscope, camera."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_phase.geometry import Band, PhaseGeometry
from labrecon_phase.readers.border import in_words

__all__ = ["LedSidecar", "Lit", "Place", "Shot", "described", "minimal", "read_sidecar"]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Place(_Checked):
    """Where an LED is: from the sample in mm, as in the files of Waller's lab."""

    x: float
    y: float
    z: float = Field(gt=0)
    board_index: int | None = Field(None, description="its number on the board; not used")


class Lit(_Checked):
    """An LED that is on."""

    index: int = Field(ge=0, description="its place in led_list, from 0")
    brightness: float = Field(1.0, ge=0)
    code: int | None = Field(None, ge=0, description="what the controller is sent; not used")


class Shot(_Checked):
    """One exposure. Its light is brightness times duration, the longest counting 1."""

    leds: list[Lit] = Field(min_length=1)
    exposure_ms: float | None = Field(None, gt=0)
    relative_time: float | None = Field(None, gt=0, description="where exposure_ms is not given")
    stray_light: float | None = Field(None, description="in units of intensity")
    band: Band | None = None


class LedSidecar(_Checked):
    """Everything but the images. What is also in OME metadata may be left out."""

    led_list: list[Place] = Field(min_length=1)
    exposures: list[Shot] = Field(min_length=1)
    wavelength_um: float | None = Field(None, gt=0)
    na: float | None = Field(None, gt=0)
    magnification: float | None = Field(None, gt=0)
    camera_pixel_um: float | None = Field(None, gt=0)
    index: float | None = Field(None, ge=1, description="refractive index of the immersion")
    defocus_um: float = 0.0
    shift_mm: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0
    height_mm: float = 0.0
    flip_illumination: bool = False
    sample: Literal["phase", "absorbing", "field"] = "phase"
    quantity: Literal["intensity", "contrast"] = "intensity"
    levels: int = Field(256, ge=2)
    aberration_rad: tuple[float, ...] = ()
    edge: float = Field(0.0, ge=0)
    pixel_fill: float = Field(1.0, ge=0, le=1)
    upsample: int | None = Field(None, ge=1)
    sigma: float | None = Field(None, gt=0, description="noise in units of intensity")
    offset_dn: float = Field(0.0, description="of the camera, where there is no dark image")
    white_dn: float | None = Field(
        None, gt=0, description="signal of the empty field at a light of 1, offset subtracted"
    )
    full_scale_dn: float | None = Field(None, gt=0, description="pixels from here on are saturated")
    electrons_per_dn: float | None = Field(None, gt=0)
    electrons: float | None = Field(None, gt=0, description="at an intensity of 1")
    read_noise_e: float = Field(1.5, ge=0)
    dark: str | None = Field(None, description="file of dark images, beside this one")
    background: str | None = Field(None, description="file of the exposures of an empty field")

    def patterns(self, ignored: dict[str, str]) -> Tensor:
        """Light (exposure, led): brightness times relative duration.

        Raises:
            ReaderError: an index that no LED has, or that is there twice; durations of some
                exposures only.
        """
        made = torch.zeros(len(self.exposures), len(self.led_list), dtype=torch.float64)
        for row, shot in enumerate(self.exposures):
            chosen = [lit.index for lit in shot.leds]
            wrong = sorted({i for i in chosen if i >= len(self.led_list) or chosen.count(i) > 1})
            if wrong:
                raise ReaderError(
                    f"exposure {row} lights LED {wrong[0]}, expected each index once and below "
                    f"{len(self.led_list)}, the length of led_list: indices count from 0"
                )
            made[row, chosen] = torch.tensor(
                [lit.brightness for lit in shot.leds], dtype=torch.float64
            )
        times = self._times(ignored)
        return made if times is None else made * times[:, None]

    def _times(self, ignored: dict[str, str]) -> Tensor | None:
        in_ms = self.each("exposure_ms")
        relative = self.each("relative_time")
        if in_ms is None:
            return None if relative is None else torch.tensor(relative, dtype=torch.float64)
        if relative is not None:
            ignored["relative_time"] = "exposure_ms is given"
        times = torch.tensor(in_ms, dtype=torch.float64)
        return times / times.max()

    def each(self, name: str) -> list[Any] | None:
        """A value of each exposure, or None where no exposure has it.

        Raises:
            ReaderError: some exposures have it.
        """
        values = [getattr(shot, name) for shot in self.exposures]
        missing = [row for row, value in enumerate(values) if value is None]
        if missing and len(missing) < len(values):
            raise ReaderError(
                f"exposures {missing} have no {name}, the others have: give it to all or to none"
            )
        return None if missing else values


def read_sidecar(file: Path) -> LedSidecar:
    """The description in a JSON file.

    Raises:
        ReaderError: it is no JSON, or says what there is not.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return LedSidecar.model_validate(content)
    except ValidationError as error:
        raise ReaderError(f"{file.name}: {in_words(error)}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise ReaderError(f"{file.name} is no JSON: {error}") from error


def described(geometry: PhaseGeometry, shots: Sequence[Mapping[str, Any]], **more: Any) -> str:
    """The JSON of a geometry with these exposures; `read_sidecar` takes it.

    Args:
        geometry: the acquisition.
        shots: what `Shot` takes, one for each of the geometry's exposures or of others.
        **more: further fields of `LedSidecar`.
    """
    told = {
        "led_list": [
            dict(zip("xyz", place, strict=True)) for place in geometry.leds.values.tolist()
        ],
        "exposures": list(shots),
        "wavelength_um": geometry.wavelength,
        "na": geometry.na,
        "magnification": geometry.magnification,
        "camera_pixel_um": geometry.camera_pixel,
        "index": geometry.index,
        "defocus_um": geometry.defocus,
        "shift_mm": geometry.led_shift,
        "rotation_deg": geometry.led_rotation,
        "height_mm": geometry.led_height,
        "flip_illumination": geometry.flip_illumination,
        "sample": geometry.sample,
        "quantity": geometry.quantity,
        "levels": geometry.levels,
        "aberration_rad": geometry.aberration,
        "edge": geometry.edge,
        "pixel_fill": geometry.pixel_fill,
        "upsample": geometry.upsample,
        "sigma": geometry.sigma,
        "electrons": geometry.electrons,
        "read_noise_e": geometry.read_noise,
        **more,
    }
    return json.dumps({name: value for name, value in told.items() if value is not None}, indent=1)


def minimal(images: int) -> str:
    """The least that a description says, for the message that there is none."""
    return (
        json.dumps(
            {
                "led_list": [{"x": -4.0, "y": 0.0, "z": 67.5}, {"x": 4.0, "y": 0.0, "z": 67.5}],
                "exposures": [{"leds": [{"index": 0, "brightness": 1.0}]}],
                "wavelength_um": 0.514,
                "na": 0.25,
                "magnification": 10.0,
                "camera_pixel_um": 6.5,
            }
        )
        + f" with one of exposures for each of {images} images"
    )
