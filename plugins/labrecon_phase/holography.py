"""Off-axis holography: its geometry, its linear forward model, and where its sideband is."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from labrecon import Array, Operator, Space

__all__ = ["HologramGeometry", "OffAxisHologram", "distances", "find_carrier"]

#: Cycles per pixel below which `find_carrier` takes a peak for a part of the zero order.
CENTRE = 1 / 16
#: How many times the median of the spectrum a sideband is; white noise reaches 4 in 200² pixels.
PEAK = 10.0


def _wrapped(frequency: float, samples: int) -> float:
    """The same frequency, between ``-samples / 2`` and ``samples / 2``."""
    return (frequency + samples / 2) % samples - samples / 2


class HologramGeometry(BaseModel):
    """One off-axis hologram: frequencies in samples of its spectrum, lengths at the sample in µm.

    A sample of the spectrum along an axis of ``N`` pixels is ``1 / N`` cycles per pixel. ``u``
    times the carrier ``exp(i2π k·r)``, with ``r`` from the first pixel, is the wave that interferes
    with the plane reference wave: the sideband at ``+k``. That at ``−k`` is of the conjugate of
    ``u``, in which phases have the other sign.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: tuple[int, int] = Field(description="camera pixels (y, x)")
    carrier: tuple[float, float] = Field(
        description="k: (row, column) of the sideband in samples from frequency zero"
    )
    radius: float | None = Field(
        None,
        gt=0,
        description="of the band around the sideband in samples; by default half the distance of "
        "the sideband from zero, or from the other sideband where that is nearer",
    )
    reference: Array | None = Field(
        None,
        description="complex field (y, x) of the empty hologram by which the object's is "
        "multiplied, in units of the data; by default 1",
    )
    pixel: float | None = Field(None, gt=0, description="pitch of camera pixels at the sample, µm")
    sigma: float | None = Field(None, gt=0, description="noise of a pixel in units of the data")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shape) < 4:
            raise ValueError(f"shape is (y, x) of at least 4 pixels, got {self.shape}")
        for name, k, size in zip("yx", self.carrier, self.shape, strict=True):
            if abs(k) > size / 2:
                raise ValueError(
                    f"the carrier {self.carrier} is beyond the {size / 2:g} samples that "
                    f"{size} pixels along {name} resolve: count it from frequency zero"
                )
        if not self.apart > 0:
            raise ValueError(
                f"the carrier {self.carrier} coincides with its mirror image, so that phases can "
                "not be told: tilt the reference wave differently"
            )
        if 2 * self.band > self.apart:
            raise ValueError(
                f"sidebands of radius {self.band:g} around ±{self.carrier} overlap: give a radius "
                f"of at most {self.apart / 2:g} samples"
            )
        if self.reference is not None:
            if self.reference.shape != self.shape:
                raise ValueError(
                    f"the reference is (y, x) = {self.shape}, got {self.reference.shape}"
                )
            empty = int((self.reference.values == 0).sum())
            if empty:
                raise ValueError(f"the reference is 0 in {empty} pixels: the phase is lost there")
        return self

    @property
    def apart(self) -> float:
        """Distance of the two sidebands in samples, in a spectrum that is periodic."""
        return math.hypot(
            *(_wrapped(2 * k, n) for k, n in zip(self.carrier, self.shape, strict=True))
        )

    @property
    def band(self) -> float:
        """Radius of the band in samples: ``radius`` or its default."""
        if self.radius is not None:
            return self.radius
        return min(math.hypot(*self.carrier), self.apart) / 2

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked."""
        return type(self).model_validate({**dict(self), **changes})


class OffAxisHologram(Operator):
    """``y = 2 Re[(P u) b exp(i2π k·r)]``: a hologram without its zero order.

    A camera that sees a wave ``o = u b exp(i2π k·r)`` and a plane reference wave of modulus 1
    records ``|1 + o|² = 1 + |o|² + 2 Re o``; the last term is linear in the complex ``u``. ``P``
    limits ``u`` to frequencies nearer to zero than the band's radius. ``b`` is the field of the
    empty hologram (``geometry.reference``), so that ``u`` is 1 where there is no object; without
    it, 1. Real numbers from complex ones: linear over the reals, adjoint in ``Re Σ conj(a) b``.

    The domain is ``u`` (y, x), complex; the range (y, x), real, in units of the camera.

    Args:
        geometry: the acquisition.
        dtype: of the data.

    Source:
        Takeda, Ina and Kobayashi 1982, J. Opt. Soc. Am. 72, 156; Cuche, Marquet and Depeursinge
        2000, Appl. Opt. 39, 4070.
    """

    carrier: Tensor
    reference: Tensor
    band: Tensor
    wide: Tensor

    def __init__(self, geometry: HologramGeometry, *, dtype: torch.dtype = torch.float32) -> None:
        field = dtype.to_complex()
        super().__init__(
            Space(geometry.shape, field, ("y", "x")), Space(geometry.shape, dtype, ("y", "x"))
        )
        self.geometry = geometry
        rows, columns = (
            k * torch.arange(n, dtype=torch.float64) / n
            for k, n in zip(geometry.carrier, geometry.shape, strict=True)
        )
        turns = (rows[:, None] + columns).remainder(1)
        plane = torch.polar(torch.ones_like(turns), math.tau * turns)
        self.register_buffer("carrier", plane.to(field))
        given = geometry.reference
        self.register_buffer(
            "reference", torch.ones((), dtype=field) if given is None else given.tensor(field)
        )
        far = distances(geometry.shape)
        self.register_buffer("band", far < geometry.band)
        # The product u b has frequencies up to the sum of theirs.
        self.register_buffer("wide", far < min(2 * geometry.band, geometry.apart / 2))

    def band_limited(self, u: Tensor) -> Tensor:
        """``P u``: frequencies within the band, of fields (…, y, x)."""
        return _filtered(u, self.band)

    def forward(self, x: Tensor) -> Tensor:
        """``2 Re[(P u) b exp(i2π k·r)]``."""
        return 2 * (self.band_limited(x) * (self.reference * self.carrier)).real

    def adjoint(self, y: Tensor) -> Tensor:
        """``P[2 conj(b exp(i2π k·r)) y]``."""
        return self.band_limited(2 * (self.reference * self.carrier).conj() * y)

    def initial(self, y: Tensor) -> Tensor:
        """Demodulation: ``P[Q(y exp(−i2π k·r)) / b]`` with a filter ``Q`` twice as wide as ``P``.

        Of data without noise it is ``P u``, exactly, where ``k`` is in whole or half samples, the
        reference has no frequencies outside the band, and the radius is a quarter of the distance
        of the sidebands, or less; without a reference, half of it.
        """
        return self.band_limited(_filtered(y * self.carrier.conj(), self.wide) / self.reference)


def _filtered(field: Tensor, kept: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(field) * kept)


def distances(shape: tuple[int, int]) -> Tensor:
    """Distance of the samples of a spectrum from frequency zero (y, x), in samples, as FFTs order.

    Args:
        shape: pixels (y, x).
    """
    rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in shape)
    return torch.hypot(rows[:, None], columns)


def find_carrier(hologram: Tensor) -> tuple[float, float]:
    """The strongest sideband with a negative row (or row 0 and a negative column), whole samples.

    It is the largest modulus of the spectrum of the hologram under a Hann window, without
    frequencies below 1/16 cycles per pixel. The other sideband is at its negative.

    Args:
        hologram: (y, x), real.

    Returns:
        Its (row, column) in samples of the spectrum from frequency zero.

    Raises:
        ValueError: no frequency stands out.
    """
    shape = (int(hologram.shape[0]), int(hologram.shape[1]))
    window = torch.from_numpy(np.outer(*(np.hanning(n + 2)[1:-1] for n in shape)))
    values = hologram.double().cpu()
    modulus = torch.fft.fft2(window * (values - values.mean())).abs()
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape)
    half = (rows[:, None] < 0) | ((rows[:, None] == 0) & (columns < 0))
    seen = torch.where(half & (torch.hypot(rows[:, None], columns) >= CENTRE), modulus, 0.0)
    peak, typical = float(seen.max()), float(modulus.median())
    if not peak > PEAK * typical:
        raise ValueError(
            f"no sideband stands out: the strongest frequency above {CENTRE:g} cycles per pixel "
            f"has {peak:.3g}, the median is {typical:.3g}, expected {PEAK:g} times as much: is "
            "this an off-axis hologram, with fringes of less than 16 pixels?"
        )
    row, column = divmod(int(seen.argmax()), shape[1])
    return _wrapped(row, shape[0]), _wrapped(column, shape[1])
