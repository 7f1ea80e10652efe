"""The LED-array microscope as labrecon sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.noise import Amplitude, Gaussian, Noise, PoissonGaussian, Scaled
from labrecon.operator import Operator
from labrecon_phase.geometry import PhaseGeometry

__all__ = ["PhaseInstrument"]

#: Noise of data whose electrons are not known.
SIGMA = 0.005
TV: dict[str, Any] = {"name": "tv", "relative_weight": 3e-3}
FISTA: dict[str, Any] = {"name": "fista", "iterations": 150, "tolerance": 1e-4}


#: Kellman et al. 2019: gradient descent with momentum, unrolled; judged by Gauss–Newton.
DESIGN: dict[str, Any] = {
    "prepare": [],
    "network": {
        "name": "unrolled",
        "solver": "gradient",
        "prior": "zero",
        "depth": 12,
        "learn": ["step_size"],
        "tied": True,
        "start": "zero",
        "solver_options": {"step_size": 0.4, "momentum": 0.8},
    },
    "data": {"count": 40, "validation": 0.4},
    "fit": {"steps": 80, "batch_size": 4, "learning_rate": 1e-2},
    "design": {"names": ["patterns"], "starts": 3},
    "classical": {
        "solver": {"name": "gauss-newton", "iterations": 6, "start": "initial"},
        "prior": {"name": "tikhonov", "relative_weight": 1e-4},
    },
    "evaluation": {"robustness": {"led_shift": [0.0, 0.25, 0.5, 1.0]}},
}


class PhaseInstrument(Instrument):
    """Coded illumination by an LED array: phase contrast, Fourier ptychography; phase in rad."""

    name: ClassVar[str] = "phase"
    title: ClassVar[str] = "LED-array microscope (differential phase contrast, ptychography)"
    Geometry: ClassVar[type[BaseModel]] = PhaseGeometry
    unit: ClassVar[str] = "rad"
    data_unit: ClassVar[str] = "intensity of the empty field"
    noise_fields: ClassVar[tuple[str, ...]] = ("electrons", "read_noise", "sigma")
    tolerances: ClassVar[Mapping[str, float]] = {
        "led_shift": math.inf,
        "led_rotation": math.inf,
        "led_height": math.inf,
        "aberration": math.inf,
        "background": math.inf,
        "electrons": 0.5,
        "sigma": math.inf,
    }

    def example(self) -> PhaseGeometry:
        """48² pixels, 10×/0.25, a planar array of 7 × 7 LEDs and the four half circles of DPC."""
        from labrecon_phase.led_arrays import half_circles, planar

        leds = planar(7, 4.0, 67.5)
        return PhaseGeometry.model_validate(
            {
                "shape": (48, 48),
                "wavelength": 0.514,
                "na": 0.25,
                "magnification": 10.0,
                "camera_pixel": 5.0,
                "leds": leds,
                "patterns": half_circles(leds, 0.25, 4),
                "electrons": 30_000.0,
                "edge": 1.0,
            }
        )

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self,
        geometry: Any,
        *,
        tikhonov: float = 1e-2,
        precision: Literal["single", "double"] = "single",
    ) -> Operator:
        """`AbbeImaging` of intensities, `WeakObject` of contrast; ``tikhonov`` is for the latter.

        See `labrecon_phase.abbe` and `labrecon_phase.weak_object`.
        """
        from labrecon_phase.abbe import AbbeImaging
        from labrecon_phase.weak_object import WeakObject

        dtype = torch.float64 if precision == "double" else torch.float32
        if geometry.quantity == "contrast":
            return WeakObject(geometry, tikhonov=tikhonov, dtype=dtype)
        return AbbeImaging(geometry, dtype=dtype)

    def noise(self, geometry: Any) -> Noise:
        """Photon and read noise where electrons are known; roots of intensities for a field."""
        if geometry.sample == "field" and geometry.electrons is None:
            return Amplitude(geometry.sigma or SIGMA)
        if geometry.electrons is None:
            return Gaussian(geometry.sigma or SIGMA)
        if geometry.quantity == "contrast":
            return Gaussian(geometry.sigma or geometry.electrons**-0.5)
        return Scaled(PoissonGaussian(geometry.read_noise), geometry.electrons)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """Random cells, see `labrecon_phase.phantoms`."""
        from labrecon_phase.phantoms import random_cells

        return random_cells(geometry, n, generator)

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where data are not what the operator predicts."""
        geometry = scan.geometry
        assert isinstance(geometry, PhaseGeometry)
        expected = (geometry.exposures, *geometry.shape)
        if tuple(scan.data.shape[-3:]) != expected:
            raise ReaderError(
                f"the images are {tuple(scan.data.shape)}, expected (exposure, y, x) = {expected}"
            )

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order."""
        return {
            "uconn-mat": "labrecon_phase.readers.uconn_mat:UConnMatReader",
            "half-annulus": "labrecon_phase.readers.half_annulus:HalfAnnulusReader",
            "tiff-leds": "labrecon_phase.readers.tiff_leds:TiffLedReader",
        }

    @property
    def steps(self) -> Mapping[str, Any]:
        """Preparation steps by the names that recipes use."""
        return {
            "contrast": "labrecon_phase.steps.contrast:contrast",
            "crop": "labrecon_phase.steps.crop:crop",
        }

    @property
    def exporters(self) -> Mapping[str, Any]:
        """Patterns as an LED controller loads them."""
        return {
            "led-json": "labrecon_phase.exporters.led_json:export_led_json",
            "led-csv": "labrecon_phase.exporters.led_csv:export_led_csv",
        }

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """``recon`` (Tikhonov), ``tv``, ``nonlinear``, ``fpm`` and ``fpm-calibrated``."""
        contrast = [{"step": "contrast"}]
        newton: dict[str, Any] = {"name": "gauss-newton", "iterations": 12, "start": "initial"}
        ridge: dict[str, Any] = {"name": "tikhonov", "relative_weight": 1e-4}
        tikhonov: dict[str, Any] = {"prepare": contrast, "solver": {"name": "direct"}}
        tv: dict[str, Any] = {"prepare": contrast, "solver": FISTA, "prior": TV}
        nuisances = ["led_shift", "led_rotation", "led_height", "zernike"]
        return {
            "recon": tikhonov,
            "tv": tv,
            "compare": {**tv, "compare": [{"title": "Tikhonov", "solver": {"name": "direct"}}]},
            "nonlinear": {"solver": newton, "prior": ridge},
            # No prior: a relative weight is a fraction of the gradient at zero, where it vanishes.
            "fpm": {"solver": {**newton, "iterations": 6}},
            "fpm-calibrated": {
                "solver": {**newton, "iterations": 6, "inner": 5, "check_every": 1},
                "calibrate": {"nuisances": nuisances, "method": "alternating", "after": 1},
            },
            "demo": {"solver": newton, "prior": ridge},
            "design": DESIGN,
        }

    # -- experimental design -------------------------------------------------------------------

    def with_acquisitions(self, geometry: Any, count: int) -> PhaseGeometry:
        """So many exposures: half circles, in the band of the first one."""
        from labrecon_phase.led_arrays import half_circles

        patterns = half_circles(geometry.leds.tensor(torch.float64), geometry.na, count)
        changed: PhaseGeometry = geometry.changed(
            patterns=patterns,
            bands=None if geometry.bands is None else (geometry.bands[0],) * count,
            background=None if geometry.background is None else (geometry.background[0],) * count,
        )
        return changed

    def baselines(
        self, geometry: Any, design: str, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Half circles (DPC), half annuli of the outer LEDs, and random brightness."""
        from labrecon_phase.led_arrays import half_circles, na_of, random_patterns
        from labrecon_phase.led_patterns import LEDPatterns

        if design != "patterns":
            return {}
        leds, count = geometry.leds.tensor(torch.float64), geometry.exposures
        own = torch.linalg.vector_norm(na_of(leds), dim=1)
        bright = own <= geometry.na
        outer = half_circles(leds, geometry.na, count) * (own >= 0.75 * float(own[bright].max()))
        feasible = self.operator(geometry).designs["patterns"]
        assert isinstance(feasible, LEDPatterns)
        found = {"half circles (DPC)": half_circles(leds, geometry.na, count)}
        if bool((outer.sum(1) > 0).all()):
            found["half annuli"] = outer / outer.sum(1, keepdim=True)
        return {**found, "random": random_patterns(feasible.allowed, generator)}

    def budget(self, geometry: Any, designs: Mapping[str, Tensor]) -> Mapping[str, str]:
        """Exposures, LEDs that are lit, and exposure times for equal light."""
        patterns = designs.get("patterns", geometry.patterns.tensor())
        # An exposure lasts as long as one LED at full brightness would need, over what is lit.
        times = patterns.amax(1)
        lit = ", ".join(str(int(n)) for n in (patterns > 0).sum(1))
        told = ", ".join(f"{t:.3g}" for t in times.tolist())
        return {
            "exposures": str(len(patterns)),
            "LEDs lit": lit,
            "light per exposure": "1 (that of one LED at full brightness for 1 unit of time)",
            "exposure times": f"{told} units of time",
        }

    def show_design(self, geometry: Any, designs: Mapping[str, Tensor], figure: Any) -> bool:
        """LED maps, and below each the phase transfer function; their sum at the end."""
        from labrecon_phase.pictures import draw_patterns

        if "patterns" not in designs:
            return False
        draw_patterns(geometry, designs["patterns"], figure)
        return True

    def gauge(self, x: Tensor) -> Tensor:
        """Phases without their mean, fields without their mean phase."""
        if x.is_complex():
            mean = x.mean((-2, -1), keepdim=True)
            return x * mean.conj() / mean.abs().clamp_min(1e-12)
        return x - x.mean((-2, -1), keepdim=True)

    def voxel_size(self, geometry: Any) -> tuple[float, ...] | None:
        """In mm along (y, x), or (component, y, x)."""
        pixel = 1e-3 * geometry.object_pixel
        return (pixel, pixel)
