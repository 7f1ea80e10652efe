"""Differential phase contrast with a condenser: four images under half annuli."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.readers.border import (
    check_finite,
    check_frames,
    checked_geometry,
    grey,
    in_words,
    stacked,
)

__all__ = ["HalfAnnulusReader", "HalfAnnulusSettings", "half_annuli"]

ENDINGS = (".png", ".tif", ".tiff", ".bmp")
SETTINGS = "microscope.toml"
#: Distance of the LEDs in mm; with directions alone given, any does.
DISTANCE = 60.0
MODES = ("L", "I;16", "I;16L", "I;16B", "I", "F")
Axis = Literal["-y", "+y", "-x", "+x"]


class HalfAnnulusSettings(BaseModel):
    """``microscope.toml`` beside the images, lengths in µm."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    wavelength: float = Field(gt=0, description="in vacuum")
    na: float = Field(gt=0, description="numerical aperture of the objective")
    magnification: float = Field(gt=0, description="from sample to camera")
    camera_pixel: float = Field(gt=0, description="pixel pitch of the camera")
    inner: float = Field(0.0, ge=0, description="aperture of the annulus' inner rim; 0 is a disc")
    outer: float = Field(gt=0, description="aperture of its outer rim")
    axes: list[Axis] = Field(
        default=["-y", "+y", "-x", "+x"],
        min_length=1,
        description="which half is lit in r1, r2, …: directions of ν, y growing downwards",
    )


#: Of the set published by Zhou (Pupil-Driven Differential Phase Contrast).
PUBLISHED = HalfAnnulusSettings(
    wavelength=0.523, na=0.5, magnification=20.0, camera_pixel=2.4, inner=0.45, outer=0.5
)


class HalfAnnulusReader:
    """A folder with ``r1.png``, ``r2.png``, … (or ``.tif``, ``.bmp``) and ``microscope.toml``.

    Without `HalfAnnulusSettings` in ``microscope.toml`` the microscope is that of the published
    set: 20×/0.5, 523 nm, an annulus of NA 0.45 to 0.5. The source is sampled on the grid of the
    image's spectrum, so that transfer functions are correlations (`WeakObject`).
    """

    def matches(self, path: Path) -> bool:
        """Whether the path is a folder with images ``r1`` and ``r2``."""
        try:
            return path.is_dir() and {1, 2} <= set(_images(path))
        except (OSError, ReaderError):
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the folder.

        Raises:
            ReaderError: damaged or coloured images, as many as settings do not name, or settings
                that are wrong.
        """
        assumed = {
            "unit of intensity": "the mean of all images",
            "LEDs": "the spectrum's grid points within the half annuli, of equal brightness",
        }
        settings = _settings(path, assumed)
        files = _images(path)
        check_frames(len(files), len(settings.axes), path.name)
        missing = [f"r{k}" for k in range(1, len(files) + 1) if k not in files]
        if missing:
            raise ReaderError(f"{path.name} has no {', '.join(missing)}: name images r1, r2, …")
        ordered = [files[k] for k in sorted(files)]
        images = [_open(file) for file in ordered]
        data = stacked([grey(image, f.name) for image, f in zip(images, ordered, strict=True)],
                       [file.name for file in ordered])  # fmt: skip
        check_finite(data, path.name)
        unit = float(data.mean(dtype=torch.float64))
        if not bool((data.mean((-2, -1)) > 0).all()):
            raise ReaderError("an image has no light: was a half of the annulus switched off?")
        data /= unit
        shape = (int(data.shape[1]), int(data.shape[2]))
        leds, patterns = half_annuli(settings, shape)
        geometry = checked_geometry(
            shape=shape,
            wavelength=settings.wavelength,
            na=settings.na,
            magnification=settings.magnification,
            camera_pixel=settings.camera_pixel,
            leds=leds,
            patterns=patterns,
            pixel_fill=0.0,
            upsample=1,
            sample="absorbing",
        )
        found = {
            "images": f"{len(data)} of {shape[0]} × {shape[1]} pixels, {ordered[0].suffix[1:]}",
            "unit of intensity": f"{unit:.6g} in the files",
            "source": f"{len(leds)} points, NA {settings.inner:g} to {settings.outer:g}",
        }
        saturated = sum(_saturated(image) for image in images)
        if saturated:
            found["saturated pixels"] = f"{saturated} of {data.numel()}, taken as they are"
        return Scan(
            data,
            geometry,
            PhaseInstrument().noise(geometry),
            found=found,
            assumed=assumed,
            provenance={
                "source": str(path),
                "format": "half annuli",
                "reader": "labrecon_phase.readers.half_annulus:HalfAnnulusReader",
            },
        )


def half_annuli(settings: HalfAnnulusSettings, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """LEDs (led, 3) in mm on the grid of the spectrum of an image, and patterns of sum 1.

    Raises:
        ReaderError: no point of the grid is in a half of the annulus.
    """
    pixel = settings.camera_pixel / settings.magnification
    sines = [settings.wavelength / (size * pixel) for size in shape]
    half = [math.floor(settings.outer / step) + 1 for step in sines]
    ticks = [
        step * torch.arange(-n, n + 1, dtype=torch.float64)
        for step, n in zip(sines, half, strict=True)
    ]
    y, x = torch.meshgrid(*ticks, indexing="ij")
    radius = torch.hypot(y, x)
    rounding = 1e-9
    inside = (radius >= settings.inner - rounding) & (radius <= settings.outer + rounding)
    y, x, radius = y[inside], x[inside], radius[inside]
    if not len(radius) or float(radius.max()) >= 1:
        raise ReaderError(
            f"an annulus of NA {settings.inner:g} to {settings.outer:g} holds no directions in air "
            f"that images of {shape} pixels resolve: check inner, outer and camera_pixel"
        )
    along = {"-y": -y, "+y": y, "-x": -x, "+x": x}
    lit = torch.stack([along[axis] > rounding for axis in settings.axes]).double()
    if not bool((lit.sum(1) > 0).all()):
        raise ReaderError("a half of the annulus holds no point of the spectrum's grid")
    stretch = DISTANCE / (1 - radius.square()).sqrt()
    leds = torch.stack([x * stretch, y * stretch, torch.full_like(x, DISTANCE)], 1)
    return leds, lit / lit.sum(1, keepdim=True)


def _images(folder: Path) -> dict[int, Path]:
    """Images by their numbers."""
    found: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        named = re.fullmatch(r"r(\d+)", file.stem)
        if not named or file.suffix.lower() not in ENDINGS:
            continue
        number = int(named.group(1))
        if number in found:
            raise ReaderError(
                f"{found[number].name} and {file.name} are both exposure {number}: keep one"
            )
        found[number] = file
    return found


def _open(file: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode not in MODES:
                raise ReaderError(
                    f"{file.name} is an image of mode {image.mode}, expected grey values of 8 or "
                    "16 bits: export one channel"
                )
            values: NDArray[Any] = np.asarray(image)
            return values
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ReaderError(
            f"{file.name} is truncated or damaged ({error}); copy it again"
        ) from error


def _saturated(image: NDArray[Any]) -> int:
    """Pixels at the end of an integer's range."""
    if image.dtype.kind != "u":
        return 0
    return int((image == np.iinfo(image.dtype).max).sum())


def _settings(folder: Path, assumed: dict[str, str]) -> HalfAnnulusSettings:
    file = folder / SETTINGS
    if not file.is_file():
        given = PUBLISHED.model_dump()
        named = ", ".join(f"{name} = {value}" for name, value in given.items())
        assumed["microscope"] = f"that of the published set, as there is no {SETTINGS}: {named}"
        return PUBLISHED
    try:
        settings = HalfAnnulusSettings.model_validate(
            tomllib.loads(file.read_text(encoding="utf-8"))
        )
    except ValidationError as error:
        raise ReaderError(f"{SETTINGS}: {in_words(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReaderError(f"{SETTINGS} is no TOML: {error}") from error
    if settings.inner >= settings.outer:
        raise ReaderError(
            f"{SETTINGS}: inner = {settings.inner:g} is not below outer = {settings.outer:g}; both "
            "are numerical apertures"
        )
    return settings
