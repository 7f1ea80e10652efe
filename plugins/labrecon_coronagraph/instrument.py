"""Angular differential imaging as labrecon sees it: a cube of frames, a map of the sky."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.noise import Gaussian, Noise, PoissonGaussian, Scaled
from labrecon.operator import Operator
from labrecon_coronagraph.geometry import CoronagraphGeometry

__all__ = ["CoronagraphInstrument"]

PREPARE: list[dict[str, Any]] = [
    {"step": "bad_frames"},
    {"step": "bad_pixels"},
    {"step": "centre"},
    {"step": "high_pass"},
    {"step": "speckles"},
]
SPARSE: dict[str, Any] = {"name": "l1", "relative_weight": 0.3, "nonneg": True}
FISTA: dict[str, Any] = {"name": "fista", "iterations": 30, "tolerance": 1e-3}


class CoronagraphInstrument(Instrument):
    """Planets beside a star, from frames in which the sky turns and the speckles stay."""

    name: ClassVar[str] = "coronagraph"
    title: ClassVar[str] = "Coronagraph (angular differential imaging of planets)"
    Geometry: ClassVar[type[BaseModel]] = CoronagraphGeometry
    unit: ClassVar[str] = "counts"
    data_unit: ClassVar[str] = "counts"
    acquisitions: ClassVar[str] = "frame"
    limits: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    upward: ClassVar[tuple[str, ...]] = ("y",)
    tolerances: ClassVar[Mapping[str, float]] = dict.fromkeys(
        ("angles", "annuli", "centre", "psf", "sigma", "speckles"), math.inf
    )

    def example(self) -> CoronagraphGeometry:
        """20 frames of 51² pixels of 27 mas at 3.8 µm on 8.2 m; the sky turns by 60°."""
        from labrecon_coronagraph.star_cube import airy

        return CoronagraphGeometry.model_validate(
            {
                "shape": (51, 51),
                "pixel_scale": 27.19,
                "wavelength": 3.8,
                "angles": tuple(60.0 * k / 19 for k in range(20)),
                "centre": (25.0, 25.0),
                "psf": airy(27.19, 3.8, 8.2, 21),
                "star_flux": 1e5,
                "gain": 10.0,
                "read_noise": 30.0,
            }
        )

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self, geometry: Any, *, precision: Literal["single", "double"] = "single"
    ) -> Operator:
        """Planets in all frames; where the step ``speckles`` was, what is left of them after it."""
        from labrecon_coronagraph.speckles import planets_without_speckles

        dtype = torch.float64 if precision == "double" else torch.float32
        return planets_without_speckles(geometry, dtype=dtype)

    def noise(self, geometry: Any) -> Noise:
        """Of planets alone: what is left of speckles where it was measured, else read noise.

        The star's photons are in `simulate`, and in the weights that the step ``speckles`` finds.
        """
        if geometry.sigma is not None:
            return Gaussian(geometry.sigma)
        return Gaussian(geometry.read_noise / (geometry.gain or 1.0) or 1.0)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """One to three planets each (n, y, x), from 2 λ/D on, of 1e-4 to 1e-3 of the star."""
        from labrecon_coronagraph.sky import radii

        shape = geometry.field_shape
        separation = radii(shape, ((shape[0] - 1) / 2, (shape[1] - 1) / 2))
        reach = min(
            min(geometry.centre),
            *(s - 1 - c for s, c in zip(geometry.shape, geometry.centre, strict=True)),
        )
        allowed = ((separation >= 2 * geometry.resolution) & (separation <= reach)).nonzero()
        if not len(allowed):
            raise ValueError("no pixel of the field is 2 λ/D off the star and in all frames")
        x = torch.zeros(n, *shape)
        star = geometry.star_flux or 1.0
        for one in x:
            count = int(torch.randint(1, 4, (), generator=generator))
            places = allowed[torch.randint(len(allowed), (count,), generator=generator)]
            contrast = 10 ** (-4 + torch.rand(count, generator=generator))
            one[places[:, 0], places[:, 1]] = star * contrast
        return x

    def simulate(self, geometry: Any, generator: torch.Generator) -> Scan:
        """Planets, and a star behind a vortex whose optics drift, with photons and read noise."""
        from labrecon_coronagraph.star_cube import star_cube

        truth = self.objects(geometry, 1, generator)[0]
        star = (geometry.star_flux or 1.0) * star_cube(geometry, generator).float()
        photons = Scaled(PoissonGaussian(geometry.read_noise), geometry.gain or 1.0)
        planets = self.operator(geometry.model_copy(update={"speckles": None}))
        with torch.no_grad():
            # What interpolation of the PSF leaves below zero is no light.
            clean = (planets(truth) + star).clamp_min(0)
        data = photons.sample(clean, generator)
        return Scan(
            data, geometry, self.noise(geometry), truth=truth, provenance={"source": "simulated"}
        )

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where data are not what the operator predicts."""
        geometry = scan.geometry
        assert isinstance(geometry, CoronagraphGeometry)
        expected = (geometry.frames, *geometry.shape)
        if tuple(scan.data.shape[-3:]) != expected:
            raise ReaderError(
                f"the cube is {tuple(scan.data.shape)}, expected (frame, y, x) = {expected}"
            )
        if geometry.speckles is None:
            raise ReaderError(
                "the star is still in the frames, and the model has planets alone: add the step "
                "speckles to the recipe"
            )

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order."""
        return {
            "naco-fits": "labrecon_coronagraph.readers.naco:NacoReader",
            "fits-cube": "labrecon_coronagraph.readers.fits_cube:FitsCubeReader",
        }

    @property
    def steps(self) -> Mapping[str, Any]:
        """Preparation steps."""
        names = ("bad_frames", "bad_pixels", "centre", "crop", "high_pass", "speckles")
        return {name: f"labrecon_coronagraph.steps.{name}:{name}" for name in names}

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """Sparse planets beside speckles; PCA; disks by total variation; the first two."""
        recon = {"prepare": PREPARE, "solver": FISTA, "prior": SPARSE}
        pca = {"prepare": PREPARE, "solver": {"name": "direct"}}
        # A disk is wide and turns slowly: what tells it from the star is little, and low.
        wide = [one for one in PREPARE if one["step"] not in ("high_pass", "speckles")]
        disk = {
            "prepare": [*wide, {"step": "speckles", "modes": 1}],
            "solver": {**FISTA, "iterations": 80},
            "prior": {"name": "tv", "relative_weight": 1e-3, "nonneg": True},
        }
        both = {**recon, "compare": [{"title": "PCA", "solver": {"name": "direct"}}]}
        return {"recon": recon, "pca": pca, "disk": disk, "compare": both}
