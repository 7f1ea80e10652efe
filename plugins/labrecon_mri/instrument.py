"""The MR scanner as labrecon sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon_mri.geometry import MRIGeometry

__all__ = ["MRIInstrument"]

#: Noise of a simulated sample where a geometry does not say.
SIGMA = 0.02
PREPARE = (
    "remove_oversampling",
    "prewhiten",
    "noise_level",
    "trajectory_delay",
    "radial_delay",
    "sensitivities",
    "measured",
)
OPTIONS: dict[str, dict[str, Any]] = {"trajectory_delay": {"phase": True}}
CG: dict[str, Any] = {"name": "cg", "iterations": 12, "start": "initial"}
FISTA: dict[str, Any] = {
    "name": "fista",
    "iterations": 100,
    "tolerance": 1e-4,
    "start": "initial",
}
#: Of the largest back-projected value, which samples that crowd in the middle make larger.
#: Lines in the middle of k-space that a designed mask always has.
CENTRE = 8
#: Which lines to measure, learned through CG-SENSE, judged by TV.
DESIGN: dict[str, Any] = {
    "prepare": [],
    "operator": {"centre": CENTRE},
    "network": {
        "name": "unrolled",
        "solver": "fista",
        "prior": "wavelet",
        "depth": 20,
        "threshold": 2e-3,
        "learn": [],
        "start": "zero",
    },
    "data": {"count": 40, "validation": 0.3},
    "design": {
        "names": ["sampling.mask"],
        "exposures": [16],
        "method": "exchange",
        "rounds": 240,
        "batch": 4,
        "starts": 3,
    },
    "classical": {
        "solver": {"name": "fista", "iterations": 60, "start": "initial"},
        "prior": {"name": "tv", "relative_weight": 2e-3},
    },
}
WEIGHT = {"cartesian": 2e-3, "trajectory": 2e-4}


class MRIInstrument(Instrument):
    """MRI with coil arrays, Cartesian or along any trajectory; complex transverse magnetisation."""

    name: ClassVar[str] = "mri"
    title: ClassVar[str] = "Magnetic resonance imaging (Cartesian and non-Cartesian, coil arrays)"
    Geometry: ClassVar[type[BaseModel]] = MRIGeometry
    unit: ClassVar[str] = "a.u."
    data_unit: ClassVar[str] = "k-space signal (a.u.)"
    acquisitions: ClassVar[str] = "shot"
    noise_fields: ClassVar[tuple[str, ...]] = ("sigma",)
    tolerances: ClassVar[Mapping[str, float]] = {
        "maps": math.inf,
        "field_map": math.inf,
        "sigma": math.inf,
        "position": math.inf,
        "directions": math.inf,
        "spacing": math.inf,
        # Delays are found anew in each scan, and move the samples by a fraction of their distance.
        "trajectory": 0.01,
    }

    def example(self) -> MRIGeometry:
        """A Cartesian scan of 64² pixels by 4 coils, every second line and 12 in the centre."""
        from labrecon_mri.phantoms import birdcage_maps

        n, centre = 64, 12
        mask = torch.zeros(n, 1)
        mask[::2] = 1
        mask[(n - centre) // 2 : (n + centre) // 2] = 1
        return MRIGeometry.model_validate(
            {
                "matrix": (n, n),
                "fov": (0.22, 0.22),
                "coils": 4,
                "mask": mask,
                "maps": birdcage_maps(4, (n, n)),
                "sigma": SIGMA,
            }
        )

    def examples(self) -> Mapping[str, MRIGeometry]:
        """Cartesian, and along a trajectory, whose gradients may be late."""
        from labrecon_mri.trajectories import radial

        matrix, fov = (16, 16), (0.22, 0.22)
        path = radial(8, 32, matrix, fov)
        spokes = MRIGeometry.model_validate({"matrix": matrix, "fov": fov, "trajectory": path})
        return {"Cartesian": self.example(), "along a trajectory": spokes}

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self,
        geometry: Any,
        *,
        backend: str = "auto",
        accuracy: float | None = None,
        tolerance: float = 1e-3,
        segments: int | None = None,
        coil_chunk: int | None = None,
        system: str | None = None,
        acceleration: float | None = None,
        centre: int = 0,
    ) -> Operator:
        """Coil sensitivities, then the sampling of k-space; see `labrecon_mri.forward_model`."""
        from labrecon_mri.forward_model import forward_model

        return forward_model(
            geometry,
            backend=backend,
            accuracy=accuracy,
            tolerance=tolerance,
            segments=segments,
            coil_chunk=coil_chunk,
            system=system,
            acceleration=acceleration,
            centre=centre,
        )

    def noise(self, geometry: Any) -> Noise:
        """White complex Gaussian noise, σ per real and imaginary part."""
        return Gaussian(geometry.sigma or SIGMA)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """Random bodies with a smooth phase, see `labrecon_mri.phantoms`."""
        from labrecon_mri.phantoms import random_objects

        return random_objects(geometry, n, generator)

    def simulate(self, geometry: Any, generator: torch.Generator) -> Scan:
        """A scan of one sample object; what is not measured stays 0, as in a file.

        Several coils without sensitivities are those of a birdcage, which the scan does not state.
        """
        from labrecon_mri.phantoms import birdcage_maps

        seen = geometry
        if geometry.coils > 1 and geometry.maps is None:
            seen = geometry.changed(maps=birdcage_maps(geometry.coils, geometry.matrix))
        scan = super().simulate(seen, generator).replace(geometry=geometry)
        if geometry.mask is None:
            return scan
        mask = (geometry.mask.tensor() != 0).to(scan.data.dtype)
        if mask.ndim > geometry.ndim:
            mask = mask.unsqueeze(-geometry.ndim - 1)
        return scan.replace(data=scan.data * mask)

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where several coils have no sensitivities."""
        geometry = scan.geometry
        assert isinstance(geometry, MRIGeometry)
        if geometry.coils > 1 and geometry.maps is None:
            raise ReaderError(
                f"{geometry.coils} coils have no sensitivities: put the step sensitivities into "
                "the recipe"
            )

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order."""
        return {
            "mrd": "labrecon_mri.readers.mrd:MRDReader",
            "fastmri": "labrecon_mri.readers.fastmri:FastMRIReader",
            "bart": "labrecon_mri.readers.bart:BARTReader",
            "numpy": "labrecon_mri.readers.numpy_kspace:NumpyReader",
        }

    @property
    def steps(self) -> Mapping[str, Any]:
        """Preparation steps by the names that recipes use."""
        return {
            name: f"labrecon_mri.steps.{name}:{name}"
            for name in (
                *PREPARE,
                "coil_compression",
                "density_weights",
                "partial_fourier",
                "field_map",
            )
        }

    @property
    def exporters(self) -> Mapping[str, Any]:
        """Learned trajectories and masks."""
        return {
            "pulseq": "labrecon_mri.exporters.pulseq:export_pulseq",
            "npy": "labrecon_mri.exporters.npy:export_npy",
            "mrd": "labrecon_mri.exporters.mrd:export_mrd",
        }

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """``recon`` (CG-SENSE), ``gridded``, ``wavelet``, ``tv``, ``soft-sense``, ``compare``.

        Those with a prior are for Cartesian data; ``wavelet-trajectory`` and so on have the weight
        that samples along a trajectory need.
        """
        prepare: list[dict[str, Any]] = [
            {"step": name, **OPTIONS.get(name, {})} for name in PREPARE
        ]
        two_sets = [
            {**step, "sets": 2} if step["step"] == "sensitivities" else step for step in prepare
        ]
        gridded = {"title": "zero-filled / gridded", "solver": {"name": "direct"}}
        found: dict[str, dict[str, Any]] = {
            "recon": {"prepare": prepare, "solver": CG},
            "gridded": {"prepare": prepare, "solver": {"name": "direct"}},
        }
        for kind, weight in WEIGHT.items():
            end = "" if kind == "cartesian" else f"-{kind}"
            wavelet = {"solver": FISTA, "prior": {"name": "wavelet", "relative_weight": weight}}
            tv = {"solver": FISTA, "prior": {"name": "tv", "relative_weight": weight}}
            found |= {
                f"wavelet{end}": {"prepare": prepare, **wavelet},
                f"tv{end}": {"prepare": prepare, **tv},
                f"soft-sense{end}": {"prepare": two_sets, **wavelet},
                f"compare{end}": {
                    "prepare": prepare,
                    "solver": CG,
                    "compare": [
                        {"title": "L1-wavelet SENSE", **wavelet},
                        {"title": "TV SENSE", **tv},
                        gridded,
                    ],
                },
            }
        beside = [{"title": "CG-SENSE", "solver": CG, "prior": {"name": "zero"}}, gridded]
        return {**found, "design": DESIGN, "demo": {**found["wavelet"], "compare": beside}}

    # -- experimental design -------------------------------------------------------------------

    def with_acquisitions(self, geometry: Any, count: int) -> MRIGeometry:
        """So many Cartesian lines."""
        from labrecon_mri.designs import with_lines

        return with_lines(geometry, count)

    def baselines(
        self, geometry: Any, design: str, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Equispaced and variable-density lines with the eight in the middle."""
        from labrecon_mri.designs import usual_masks

        return usual_masks(geometry, CENTRE, generator) if design.endswith("mask") else {}

    def budget(self, geometry: Any, designs: Mapping[str, Tensor]) -> Mapping[str, str]:
        """Lines, and how many times fewer than all that is."""
        for name, value in designs.items():
            if name.endswith("mask"):
                lines = int((value > 0).sum())
                return {"lines": str(lines), "acceleration": f"{value.numel() / lines:.3g}"}
        return {}

    def show_design(self, geometry: Any, designs: Mapping[str, Tensor], figure: Any) -> bool:
        """K-space and what is sampled of it."""
        from labrecon_mri.designs import draw_sampling

        return draw_sampling(geometry, designs, figure)

    def voxel_size(self, geometry: Any) -> tuple[float, ...] | None:
        """In mm along the image's axes; the frames have no length."""
        sizes: tuple[float, ...] = tuple(1e3 * size for size in geometry.pixel)
        others = len(geometry.frames) + (geometry.sets > 1)
        return None if others else sizes
