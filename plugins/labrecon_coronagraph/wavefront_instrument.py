"""The optics of a coronagraph as labrecon sees them: aberrations to images of the star."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.errors import RecipeError
from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.noise import Noise, PoissonGaussian, Scaled
from labrecon.operator import Operator
from labrecon_coronagraph.geometry import MAS
from labrecon_coronagraph.optics_geometry import OpticsGeometry

__all__ = ["WavefrontInstrument"]

#: Photon noise is weighed at the measured counts, so that nothing is lost where the star is faint.
RECON: dict[str, Any] = {
    "prepare": [],
    "solver": {"name": "gauss-newton", "iterations": 12, "start": "zero"},
    "prior": {"name": "tikhonov", "weight": 1e-3},
}


class WavefrontInstrument(Instrument):
    """Focal-plane wavefront sensing, and the design of apodizers, plates, stops and mirrors."""

    name: ClassVar[str] = "wavefront"
    title: ClassVar[str] = "Coronagraph optics (focal-plane wavefront sensing, dark zones)"
    Geometry: ClassVar[type[BaseModel]] = OpticsGeometry
    unit: ClassVar[str] = "nm"
    data_unit: ClassVar[str] = "peak of the star without mask"

    def example(self) -> OpticsGeometry:
        """A small apodized-pupil Lyot coronagraph with two images per frame, one out of focus."""
        small = {"samples": 64, "pixels": 32, "modes": 10, "diversity": (0.0, 150.0)}
        return OpticsGeometry.model_validate(small)

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self,
        geometry: Any,
        *,
        chunk: int = 16,
        precision: Literal["single", "double"] = "double",
    ) -> Operator:
        """See `labrecon_coronagraph.star_images`."""
        from labrecon_coronagraph.star_images import StarImages

        dtype = torch.float64 if precision == "double" else torch.float32
        return StarImages(geometry, chunk=chunk, dtype=dtype)

    def noise(self, geometry: Any) -> Noise:
        """Photons of star and sky, and read noise."""
        return Scaled(PoissonGaussian(geometry.read_noise, geometry.sky), geometry.photons)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """Coefficients (n, frame, mode) in nm: polishing errors, alike in all frames, and jitter.

        The deviation of a mode of degree ``n`` falls as ``1/n``, as from a spectrum ``|f|⁻²``; tip
        and tilt have the jitter of each frame beside it.
        """
        from labrecon.zernike import noll

        degrees = [noll(j)[0] for j in range(2, geometry.modes + 2)]
        falling = 1 / torch.tensor(degrees, dtype=torch.float64)
        deviation = geometry.aberration * falling / falling.square().sum().sqrt()
        drawn = torch.randn(n, 1, geometry.modes, generator=generator, dtype=torch.float64)
        x = (deviation * drawn).expand(-1, geometry.frames, -1).clone()
        if geometry.jitter and geometry.modes > 1:
            # A tilt of a rad has a D/4 rms of path over a round pupil.
            tilt = geometry.jitter / MAS * geometry.diameter / 4 * 1e9
            shape = (n, geometry.frames, 2)
            x[..., :2] += tilt * torch.randn(shape, generator=generator, dtype=torch.float64)
        return x

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order."""
        return {"star-images": "labrecon_coronagraph.readers.star_images_fits:StarImagesReader"}

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where data are not what the operator predicts."""
        g = scan.geometry
        assert isinstance(g, OpticsGeometry)
        expected = (g.frames, len(g.diversity), g.pixels, g.pixels)
        if tuple(scan.data.shape) != expected:
            raise ReaderError(
                f"the images are {tuple(scan.data.shape)}, expected (frame, image, y, x) = "
                f"{expected}"
            )

    @property
    def exporters(self) -> Mapping[str, Any]:
        """Designs for the workshop and the mirror."""
        return {"optics-fits": "labrecon_coronagraph.optics_fits:export_optics"}

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """Gauss–Newton over aberrations."""
        return {"recon": RECON}

    def baselines(
        self, geometry: Any, design: str, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """None: what makes optics good is the dark, not a reconstruction.

        Raises:
            RecipeError: always; it names the command for dark zones.
        """
        raise RecipeError(
            f"the {design} of a coronagraph is not learned by what can be reconstructed with it, "
            "but by how dark the star becomes: `labrecon dark-zone -o OUT`, with --geometry and "
            f"--learn {design}"
        )

    def budget(self, geometry: Any, designs: Mapping[str, Tensor]) -> Mapping[str, str]:
        """Largest command of the mirror, and mean transmission of the apodizer."""
        told = {}
        if "commands" in designs:
            told["largest command"] = f"{float(designs['commands'].abs().max()):.4g} nm"
        if "apodizer" in designs:
            told["mean of the apodizer"] = (
                f"{float(designs['apodizer'].mean() / (math.pi / 4)):.4g}"
            )
        return told
