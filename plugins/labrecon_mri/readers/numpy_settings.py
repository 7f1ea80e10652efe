"""What a NumPy file can not say of itself: the sidecar ``name.toml``, and guesses without it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon.operators.fourier import centred_fft, centred_ifft

__all__ = ["NumpySettings", "guess_axes", "guess_domain", "read_settings", "settings_file"]

Domain = Literal["k-space", "image"]
SPATIAL = ("kz", "ky", "kx")
#: Part of the energy in the middle 1/8 of each axis that k-space has and images have not, and by
#: how much more it has to be than that of the transform.
CONCENTRATED, CONTRAST = 0.5, 4.0


class NumpySettings(BaseModel):
    """``name.toml`` beside ``name.npy`` or ``name.npz``; every key may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None = Field(None, description="array in an .npz file")
    axes: tuple[str, ...] | None = Field(
        None, description="of the array: coil, kz, ky, kx, and names of frames such as slice"
    )
    domain: Domain | None = Field(None, description="k-space, or coil images")
    fov_mm: tuple[float, ...] | None = Field(
        None, description="field of view along (y, x) or (z, y, x) in mm"
    )
    dwell_us: float | None = Field(None, gt=0, description="time from sample to sample")

    @field_validator("axes")
    @classmethod
    def _axes(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        spatial = [name for name in names if name in SPATIAL]
        if len(set(names)) != len(names) or sorted(spatial, key=SPATIAL.index) not in (
            ["ky", "kx"],
            ["kz", "ky", "kx"],
        ):
            raise ValueError(
                "axes are all different, among them ky and kx (and kz in 3D), such as "
                f'["coil", "ky", "kx"]; got {list(names)}'
            )
        return names

    @field_validator("fov_mm")
    @classmethod
    def _fov(cls, lengths: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if lengths is not None and not all(0 < length < 1e5 for length in lengths):
            raise ValueError(f"fov_mm is positive along each axis, got {lengths}")
        return lengths


def settings_file(path: Path) -> Path:
    """Where the sidecar of a file is, if it has one."""
    return path.with_suffix(".toml")


def read_settings(path: Path) -> NumpySettings:
    """The sidecar of a file; defaults without one.

    Raises:
        ReaderError: it is no TOML, or has a key that does not exist.
    """
    file = settings_file(path)
    if not file.is_file():
        return NumpySettings.model_validate({})
    try:
        return NumpySettings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReaderError(f"{file.name} can not be read: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReaderError(f"{file.name}: {told}") from error


def sidecar_text(path: Path, shape: Sequence[int]) -> str:
    """How to say what the array is, with a sidecar for its shape."""
    names = ["ky", "kx"]
    names = names if len(shape) == 2 else ["coil", *names]
    names = [*[f"frame{i}" for i in range(len(shape) - len(names))], *names]
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"Say it in {path.with_suffix('.toml').name} beside the file, for example:\n"
        f"  axes = [{listed}]   # of the array {tuple(shape)}\n"
        '  domain = "k-space"   # or "image"\n'
        "  fov_mm = [220.0, 220.0]   # along (y, x)"
    )


def guess_axes(shape: Sequence[int], path: Path, assumed: dict[str, str]) -> tuple[str, ...]:
    """Names of the axes of a bare array: the smallest by far is that of the coils.

    Raises:
        ReaderError: none is by far the smallest, or there are more than three axes.
    """
    if len(shape) == 2:
        assumed["axes"] = f"(ky, kx), one coil, of the array {tuple(shape)}"
        return ("ky", "kx")
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    if len(shape) != 3 or 2 * shape[order[0]] > shape[order[1]]:
        raise ReaderError(
            f"which axes of the array {tuple(shape)} are coils and which k-space can not be told: "
            f"none is less than half of the others. {sidecar_text(path, shape)}"
        )
    names = ["ky", "kx"]
    names.insert(order[0], "coil")
    assumed["axes"] = (
        f"({', '.join(names)}) of the array {tuple(shape)}: the smallest axis is that of the coils"
    )
    return tuple(names)


def guess_domain(data: Tensor, ndim: int, path: Path, shape: Sequence[int]) -> Domain:
    """K-space or image, told by where the energy is: in the middle, or nowhere in particular.

    Args:
        data: (…, *matrix).
        ndim: image axes.
        path: of the file, for the error.
        shape: of its array.

    Raises:
        ReaderError: neither stands out, or k-space begins with its centre.
    """
    axes = tuple(range(-ndim, 0))
    here, there = _central(data, axes), _central(centred_fft(data, axes), axes)
    if here > CONCENTRATED and here > CONTRAST * there:
        return "k-space"
    if there > CONCENTRATED and there > CONTRAST * here:
        return "image"
    refuse_corner(data, ndim)
    refuse_corner(centred_ifft(data, axes), ndim, "of its transform ")
    raise ReaderError(
        "whether this is k-space or an image can not be told: the middle holds "
        f"{100 * here:.0f} % of the energy, and {100 * there:.0f} % after a Fourier transform "
        f"(expected more than {100 * CONCENTRATED:.0f} % in one of them). "
        f"{sidecar_text(path, shape)}"
    )


def refuse_corner(data: Tensor, ndim: int, what: str = "") -> None:
    """Raise `ReaderError` where the energy is at index 0: k-space in the order of an FFT."""
    axes = tuple(range(-ndim, 0))
    corner, middle = _central(torch.fft.fftshift(data, dim=axes), axes), _central(data, axes)
    if corner > CONCENTRATED and corner > CONTRAST * middle:
        raise ReaderError(
            f"{100 * corner:.0f} % of the energy {what}is around index 0: k-space is in the order "
            "of an FFT, expected its centre at N//2. Store it after numpy.fft.fftshift"
        )


def _central(data: Tensor, axes: Sequence[int]) -> float:
    """Part of the energy in the middle 1/8 of each axis."""
    energy = data.abs().double().square()
    total = float(energy.sum())
    for axis in axes:
        n = data.shape[axis]
        half = max(1, n // 16)
        energy = energy.narrow(axis, n // 2 - half, min(2 * half + 1, n - n // 2 + half))
    return float(energy.sum()) / total if total > 0 else 0.0


def arrange(values: NDArray[Any], names: Sequence[str]) -> tuple[NDArray[Any], dict[str, int]]:
    """The array as (*frames, coil, *matrix), and its frames."""
    frames = [name for name in names if name != "coil" and name not in SPATIAL]
    spatial = [name for name in SPATIAL if name in names]
    if "coil" not in names:
        values, names = values[None], ("coil", *names)
    order = [list(names).index(name) for name in (*frames, "coil", *spatial)]
    sizes = {name: values.shape[list(names).index(name)] for name in frames}
    return np.ascontiguousarray(values.transpose(order)), sizes
