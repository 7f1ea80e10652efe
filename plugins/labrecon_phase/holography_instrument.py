"""The off-axis holographic microscope as labrecon sees it, with its preparation steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Curve, Instrument, ReaderError, Scan, StepError
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon_phase.holography import HologramGeometry, OffAxisHologram, distances

__all__ = ["HolographyInstrument", "carrier", "reference", "zero_order"]

#: Noise of simulated data where a geometry does not say.
SIGMA = 0.02
#: Largest phase of sample objects in rad.
HIGHEST = 2.0
#: Share of its median below which the modulus of a background's field tells no phase.
DIMMEST = 0.02


class HolographyInstrument(Instrument):
    """Off-axis digital holography: the complex transmission of a thin object."""

    name: ClassVar[str] = "holography"
    title: ClassVar[str] = "Off-axis digital holography (quantitative phase)"
    Geometry: ClassVar[type[BaseModel]] = HologramGeometry
    unit: ClassVar[str] = "1"
    data_unit: ClassVar[str] = "counts"
    tolerances: ClassVar[Mapping[str, float]] = {
        "carrier": math.inf,
        "reference": math.inf,
        "sigma": math.inf,
    }

    def example(self) -> HologramGeometry:
        """64² pixels of 0.2 µm, fringes of 3 pixels across a diagonal."""
        return HologramGeometry.model_validate(
            {"shape": (64, 64), "carrier": (16, 14), "pixel": 0.2, "sigma": SIGMA}
        )

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self, geometry: Any, *, precision: Literal["single", "double"] = "single"
    ) -> Operator:
        """`labrecon_phase.holography.OffAxisHologram`."""
        dtype = torch.float64 if precision == "double" else torch.float32
        return OffAxisHologram(geometry, dtype=dtype)

    def noise(self, geometry: Any) -> Noise:
        """White Gaussian noise of the camera."""
        return Gaussian(geometry.sigma or SIGMA)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """Smooth random phases up to 2 rad, as transmissions (n, y, x) within the band."""
        white = torch.randn(n, *geometry.shape, generator=generator)
        blur = torch.exp(-((4 * distances(geometry.shape) / geometry.band) ** 2)).float()
        smooth = torch.fft.ifft2(torch.fft.fft2(white) * blur).real
        phase = HIGHEST * smooth / smooth.abs().amax((-2, -1), keepdim=True)
        return OffAxisHologram(geometry).band_limited(torch.polar(torch.ones_like(phase), phase))

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where data have another shape, or their zero order still."""
        geometry = scan.geometry
        assert isinstance(geometry, HologramGeometry)
        if tuple(scan.data.shape[-2:]) != geometry.shape:
            raise ReaderError(
                f"the hologram is {tuple(scan.data.shape)}, expected (y, x) = {geometry.shape}"
            )
        # Fringes are no stronger than the light they are in, of which the mean is √2 times theirs.
        mean, spread = float(scan.data.mean()), float(scan.data.std())
        if abs(mean) > 0.5 * spread:
            raise ReaderError(
                f"the mean of the hologram is {mean:.4g} with fringes of {spread:.4g}, expected 0: "
                "put the step zero_order into the recipe"
            )

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order."""
        return {"npz": "labrecon_phase.readers.hologram_npz:HologramNpzReader"}

    @property
    def steps(self) -> Mapping[str, Any]:
        """Preparation steps by the names that recipes use."""
        return {
            name: f"labrecon_phase.holography_instrument:{name}"
            for name in ("carrier", "zero_order", "reference")
        }

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """``recon``: demodulation, relative to the empty hologram where there is one."""
        direct: dict[str, Any] = {"name": "direct"}
        return {
            "recon": {
                "prepare": [{"step": "zero_order"}, {"step": "reference"}],
                "solver": direct,
            },
            "demo": {"solver": direct},
        }

    def voxel_size(self, geometry: Any) -> tuple[float, ...] | None:
        """In mm along (y, x); None where the pixel pitch is unknown."""
        return None if geometry.pixel is None else (1e-3 * geometry.pixel,) * 2


def carrier(scan: Scan, *, side: int = 1, position: list[float] | None = None) -> Scan:
    """Choose the sideband: another position, or the mirror image, which inverts the phase.

    Args:
        scan: before `reference`.
        side: 1, or -1 for the mirror image of the position.
        position: (row, column) in samples of the spectrum from frequency zero; by default what
            the reader found.

    Raises:
        StepError: another side than 1 and -1, a position that is no (row, column), or a reference
            that was made with the present carrier.
    """
    geometry = _geometry_of(scan)
    if side not in (1, -1):
        raise StepError(f"side is {side}, expected 1 or -1")
    if position is not None and len(position) != 2:
        raise StepError(f"position is {position}, expected [row, column] in samples")
    if geometry.reference is not None:
        raise StepError("the reference belongs to the present carrier: put carrier before it")
    row, column = geometry.carrier if position is None else position
    truth = scan.truth
    told: dict[str, Any] = {}
    if truth is not None and position is not None:
        truth, told = None, {"truth": "left out: it is relative to another carrier"}
    elif truth is not None and side == -1:
        truth = truth.conj().resolve_conj()
    changed = geometry.changed(carrier=(side * row, side * column))
    return scan.replace(geometry=changed, truth=truth).with_step(
        "carrier", carrier=list(changed.carrier), side=side, band=changed.band, **told
    )


def zero_order(scan: Scan, *, radius: float | None = None) -> Scan:
    """Remove frequencies around zero: ``|o|² + 1`` of the hologram, which has no fringes.

    Args:
        scan: a hologram.
        radius: in samples of the spectrum; by default that of the band.

    Raises:
        StepError: the radius is not positive, or reaches into the band.
    """
    geometry = _geometry_of(scan)
    chosen = geometry.band if radius is None else radius
    room = math.hypot(*geometry.carrier) - geometry.band
    if not 0 < chosen <= room * (1 + 1e-9):
        raise StepError(
            f"a radius of {chosen:g} samples around zero is not between 0 and the {room:g} at "
            f"which the band of {geometry.band:g} around {geometry.carrier} begins: give the step "
            "a radius, or the geometry a narrower band"
        )
    far = distances(geometry.shape).to(scan.data.device)
    spectrum = torch.fft.fft2(scan.data)
    data = torch.fft.ifft2(spectrum * (far >= chosen)).real
    return scan.replace(data=data).with_step(
        "zero_order", curve=_profile(spectrum, far, chosen), radius=chosen
    )


def _profile(spectrum: Tensor, far: Tensor, radius: float) -> Curve:
    """How strong frequencies are by their distance from zero, with the radius that is removed."""
    modulus = spectrum.abs().double().reshape(-1, *far.shape).mean(0)
    ring = far.round().long().flatten()
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64, device=far.device)
    means = sums.index_add(0, ring, modulus.flatten()) / torch.bincount(ring)
    tiny = torch.finfo(torch.float32).tiny
    return Curve(
        "Zero order",
        list(range(len(means))),
        means.clamp_min(tiny).log10().tolist(),
        "distance from frequency zero (samples)",
        "log10 of the mean modulus of the spectrum",
        radius,
    )


def reference(scan: Scan) -> Scan:
    """Take the field of the empty hologram for the geometry's ``reference``: phases without optics.

    It is demodulated like the object's. Nothing is changed, and the report says so, where no empty
    hologram was measured.

    Args:
        scan: with ``calibration["background"]`` (y, x).

    Raises:
        StepError: there is a reference already, the empty hologram has another shape, or it has
            hardly any fringes somewhere.
    """
    geometry = _geometry_of(scan)
    if geometry.reference is not None:
        raise StepError("there is a reference already: leave one of the steps reference out")
    if "background" not in scan.calibration:
        return scan.with_step("reference", divided_by="nothing: there is no empty hologram")
    empty = scan.calibration["background"].to(scan.data)
    if tuple(empty.shape) != geometry.shape:
        raise StepError(
            f"the empty hologram is {tuple(empty.shape)}, expected (y, x) = {geometry.shape}"
        )
    field = OffAxisHologram(geometry, dtype=empty.dtype).to(empty.device).initial(empty)
    modulus = field.abs()
    dim = modulus < DIMMEST * modulus.median()
    if bool(dim.any()):
        raise StepError(
            f"the empty hologram has hardly any fringes in {int(dim.sum())} of {dim.numel()} "
            f"pixels (modulus {float(modulus.min()):.3g}, median {float(modulus.median()):.3g}): "
            "its phase is lost there; check that its sideband is where the carrier is, or leave "
            "the step out"
        )
    truth = None if scan.truth is None else scan.truth / field
    return scan.replace(geometry=geometry.changed(reference=field), truth=truth).with_step(
        "reference", divided_by="empty hologram", median_modulus=float(modulus.median())
    )


def _geometry_of(scan: Scan) -> HologramGeometry:
    geometry = scan.geometry
    if not isinstance(geometry, HologramGeometry):
        raise StepError(f"a hologram was expected, its geometry is {type(geometry).__name__}")
    if tuple(scan.data.shape[-2:]) != geometry.shape:
        raise StepError(
            f"data are (y, x) = {geometry.shape} for this geometry, got {tuple(scan.data.shape)}"
        )
    return geometry
