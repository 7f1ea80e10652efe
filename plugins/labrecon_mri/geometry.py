"""The geometry of an MRI acquisition: what was sampled, seen by which coils."""

from __future__ import annotations

import math
import warnings
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from labrecon import Array

__all__ = ["NYQUIST_MARGIN", "MRIGeometry"]

#: How far beyond the edge of k-space of the matrix a trajectory may go: a little is ordinary in
#: EPI trains, a factor is a wrong unit.
NYQUIST_MARGIN = 1.25
Vector = tuple[float, float, float]


class MRIGeometry(BaseModel):
    """One MRI acquisition: k in cycles/m, lengths in m, times in s, frequencies in Hz.

    The image has the axes (y, x) or (z, y, x), and everything that has a component per axis
    (matrix, fov, trajectory) has them in that order. Pixel ``i`` of ``N`` is at
    ``(i − N//2) · fov / N``; the signal of a point at ``r`` is ``exp(−i2π k·r)``.

    Without a trajectory the samples are Cartesian, on all points of the grid that ``mask`` does not
    leave out; sample ``j`` of ``N`` is at ``k = (j − N//2) / fov``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    matrix: tuple[int, ...] = Field(description="image size in pixels along (y, x) or (z, y, x)")
    fov: tuple[float, ...] = Field(description="field of view along the same axes in m")
    coils: int = Field(1, ge=1, description="receive channels")
    frames: dict[str, int] = Field(
        {},
        description="axes of images that were acquired apart and are reconstructed together, such "
        "as {'slice': 20, 'contrast': 3}: name and size",
    )
    mask: Array | None = Field(
        None,
        description="Cartesian sampling, 1 where k-space was measured; broadcasts to "
        "(*frames, *matrix)",
    )
    trajectory: Array | None = Field(
        None,
        description="sample positions ([*frames,] shot, sample, axis) in cycles/m",
    )
    maps: Array | None = Field(
        None,
        description="coil sensitivities (coil, *matrix), several sets of them (set, coil, "
        "*matrix), or ([*frames,] set, coil, *matrix); one coil without them is uniform",
    )
    field_map: Array | None = Field(None, description="off-resonance (*matrix) in Hz")
    times: Array | None = Field(
        None, description="time of each sample after excitation, (sample) or (shot, sample), in s"
    )
    dwell: float | None = Field(None, gt=0, description="time from sample to sample in s")
    sigma: float | None = Field(
        None, gt=0, description="noise of a k-space sample, per real and imaginary part"
    )
    position: Vector | None = Field(
        None, description="centre of the image in the patient, (left, posterior, superior) in mm"
    )
    directions: tuple[Vector, Vector, Vector] | None = Field(
        None,
        description="directions of the image's x, y, z in the patient (left, posterior, superior)",
    )
    spacing: float | None = Field(None, gt=0, description="distance of slices in m")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n = len(self.matrix)
        if n not in (2, 3) or min(self.matrix) < 1:
            raise ValueError(f"matrix is (y, x) or (z, y, x), positive; got {self.matrix}")
        if len(self.fov) != n or not all(0 < length < math.inf for length in self.fov):
            raise ValueError(f"fov needs {n} positive lengths in m, one per axis; got {self.fov}")
        if any(size < 1 for size in self.frames.values()):
            raise ValueError(f"every axis of frames has a size of at least 1, got {self.frames}")
        if self.mask is not None and self.trajectory is not None:
            raise ValueError("give a mask (Cartesian) or a trajectory, not both")
        self._check_mask()
        self._check_trajectory()
        self._check_maps()
        self._check_field()
        return self

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        full = (*self.frames.values(), *self.matrix)
        if not _broadcasts(self.mask.shape, full):
            raise ValueError(
                f"a mask {self.mask.shape} does not broadcast to (*frames, *matrix) = {full}"
            )
        if np.iscomplexobj(self.mask.values) or not bool((self.mask.values != 0).any()):
            raise ValueError("a mask is real, and something must have been sampled")

    def _check_trajectory(self) -> None:
        if self.trajectory is None:
            return
        shape, n = self.trajectory.shape, len(self.matrix)
        frames = tuple(self.frames.values())
        if len(shape) < 3 or shape[-1] != n or not _broadcasts(shape[:-3], frames):
            raise ValueError(
                f"a trajectory is ([*frames,] shot, sample, {n}), one component per image axis; "
                f"got {shape} with frames {self.frames}"
            )
        edge = np.array(self.matrix) / (2 * np.array(self.fov))
        reach = np.abs(self.trajectory.values).reshape(-1, n).max(0) / edge
        if reach.max() > NYQUIST_MARGIN:
            axis = self.axes[int(reach.argmax())]
            raise ValueError(
                f"the trajectory goes to {reach.max():.3g} times the edge of k-space along "
                f"{axis} (matrix {self.matrix}, fov {self.fov} m): is it in another unit than "
                "cycles/m, is the fov in mm, or is the matrix too small?"
            )
        if reach.max() < 0.05:
            warnings.warn(
                f"the trajectory goes to {reach.max():.3g} of the edge of k-space only: is it in "
                "another unit than cycles/m?",
                stacklevel=2,
            )

    def _check_maps(self) -> None:
        if self.maps is None:
            return
        shape, n = self.maps.shape, len(self.matrix)
        if shape[-n:] != self.matrix or len(shape) < n + 1 or shape[-n - 1] != self.coils:
            raise ValueError(
                f"maps are ([[*frames,] set,] coil, *matrix) with coil = {self.coils} and matrix "
                f"= {self.matrix}, got {shape}"
            )
        frames = tuple(self.frames.values())
        if len(shape) > n + 2 and (
            len(shape) != n + 2 + len(frames) or not _broadcasts(shape[: len(frames)], frames)
        ):
            raise ValueError(f"maps {shape} do not fit the frames {self.frames}")

    def _check_field(self) -> None:
        if self.field_map is None:
            return
        if self.field_map.shape != self.matrix:
            raise ValueError(f"a field map has the shape of the matrix, got {self.field_map.shape}")
        if self.trajectory is None or self.times is None:
            raise ValueError("a field map needs a trajectory and the times of its samples")
        samples = self.trajectory.shape[-3:-1]
        if self.times.shape not in (samples, samples[-1:]):
            raise ValueError(f"times are (sample) or (shot, sample), got {self.times.shape}")

    # -- what follows from it ------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """2 or 3 image axes."""
        return len(self.matrix)

    @property
    def axes(self) -> tuple[str, ...]:
        """(y, x) or (z, y, x)."""
        return ("z", "y", "x")[-self.ndim :]

    @property
    def sets(self) -> int:
        """Sets of coil sensitivities (soft SENSE has two); 1 without maps."""
        extra = 0 if self.maps is None else self.maps.ndim - self.ndim - 1
        return 1 if extra == 0 or self.maps is None else self.maps.shape[-self.ndim - 2]

    @property
    def pixel(self) -> tuple[float, ...]:
        """Size of a pixel along each image axis in m."""
        return tuple(length / n for length, n in zip(self.fov, self.matrix, strict=True))

    @property
    def nyquist(self) -> tuple[float, ...]:
        """The edge of k-space along each image axis in cycles/m."""
        return tuple(n / (2 * length) for length, n in zip(self.fov, self.matrix, strict=True))

    def changed(self, **fields: object) -> MRIGeometry:
        """The same acquisition with other values of some fields, checked."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return MRIGeometry(**(kept | fields))


def _broadcasts(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    if len(shape) > len(full):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(full), strict=False))
