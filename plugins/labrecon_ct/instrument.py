"""The CT scanner as labrecon sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Exporter, Instrument, ReaderError, Scan
from labrecon.io.atomic import write_file
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon_ct.designs import usual_angles, usual_doses, usual_members, with_views
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.noise import TransmissionNoise
from labrecon_ct.phantoms import random_objects
from labrecon_ct.simulation import ELECTRONIC, OPEN_BEAM, simulated_counts

__all__ = ["CTInstrument", "export_angles"]

PREPARE = ("zingers", "flat_field", "bad_pixels", "rings", "centre")
TV: dict[str, Any] = {"name": "tv", "relative_weight": 5e-4, "nonneg": True}
#: Which of the candidate views to take, learned through Tikhonov, judged by TV.
DESIGN: dict[str, Any] = {
    "prepare": [],
    "operator": {},
    "network": {"name": "tikhonov", "rho": 1.0, "iterations": 15, "learn": False},
    "data": {"count": 40, "validation": 0.3},
    "design": {
        "subset": "angle",
        "exposures": [12],
        "method": "exchange",
        "rounds": 300,
        "batch": 6,
        "starts": 3,
    },
    "classical": {
        "solver": {"name": "fista", "iterations": 80},
        "prior": {"name": "tv", "relative_weight": 1e-3, "nonneg": True},
    },
}
FISTA: dict[str, Any] = {"name": "fista", "iterations": 100, "tolerance": 1e-4}


class CTInstrument(Instrument):
    """X-ray CT with parallel, fan and cone beams; attenuation in 1/mm from line integrals."""

    name: ClassVar[str] = "ct"
    title: ClassVar[str] = "X-ray computed tomography (parallel, fan and cone beams)"
    Geometry: ClassVar[type[BaseModel]] = CTGeometry
    unit: ClassVar[str] = "1/mm"
    data_unit: ClassVar[str] = "line integral"
    acquisitions: ClassVar[str] = "angle"
    limits: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    tolerances: ClassVar[Mapping[str, float]] = {"centre_offset": math.inf, "open_beam": 0.3}
    noise_fields: ClassVar[tuple[str, ...]] = ("open_beam", "dose")

    def example(self) -> CTGeometry:
        """A parallel 2D scan: 180 views over half a turn, 128 columns of 0.5 mm."""
        angles = tuple(math.pi * i / 180 for i in range(180))
        return CTGeometry.model_validate(
            {"angles": angles, "columns": 128, "column_pitch": 0.5, "open_beam": OPEN_BEAM}
        )

    def examples(self) -> Mapping[str, CTGeometry]:
        """In 2D, and in 3D, where the detector may be tilted."""
        angles = tuple(math.pi * i / 4 for i in range(4))
        volume = CTGeometry.model_validate({"angles": angles, "columns": 8, "rows": 4})
        return {"2D": self.example(), "3D": volume}

    # Named options, so that a recipe with a typo is refused before anything is read.
    def operator(
        self,
        geometry: Any,
        *,
        backend: Literal["auto", "matrix", "astra", "rays"] = "auto",
        kernel: Literal["line", "strip", "linear"] = "line",
        memory_budget: float = 3.0,
        uses: int = 1000,
        filter: str = "ramp",
    ) -> Operator:
        """The projector, see `labrecon_ct.projector.CTProjector`."""
        from labrecon_ct.projector import CTProjector

        return CTProjector(
            geometry,
            backend=backend,
            kernel=kernel,
            memory_budget=memory_budget,
            uses=uses,
            filter=filter,
        )

    def noise(self, geometry: Any) -> Noise:
        """Photon and electronic noise of line integrals, with the dose of each view."""
        dose = torch.tensor(geometry.dose or (1.0,) * len(geometry.angles), dtype=torch.float64)
        return TransmissionNoise(self.assumed(geometry).open_beam, ELECTRONIC, dose)

    def assumed(self, geometry: Any) -> Any:
        """5 · 10⁴ counts of an open beam that is not stated."""
        if geometry.open_beam is not None:
            return geometry
        return geometry.model_copy(update={"open_beam": OPEN_BEAM})

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """Random bodies with inclusions, see `labrecon_ct.phantoms`."""
        return random_objects(geometry, n, generator)

    def simulate(self, geometry: Any, generator: torch.Generator) -> Scan:
        """Raw counts of a random body, with flats and darks, for the default recipe."""
        truth = self.objects(geometry, 1, generator)[0]
        with torch.no_grad():
            lines = self.operator(geometry)(truth)
        return simulated_counts(lines, geometry, generator, truth=truth, drift=0.02)

    def check(self, scan: Scan) -> None:
        """Raise `ReaderError` where a prepared scan still holds counts."""
        if scan.provenance.get("quantity") == "counts":
            raise ReaderError(
                "the scan still holds counts, expected line integrals: put the step flat_field "
                "into the recipe"
            )

    @property
    def readers(self) -> Mapping[str, Any]:
        """File formats, tried in order; NXtomo explains any other HDF5 file."""
        return {
            "exchange": "labrecon_ct.readers.exchange:DataExchangeReader",
            "htc": "labrecon_ct.readers.htc:HTCReader",
            "tiff": "labrecon_ct.readers.tiff:TiffReader",
            "nxtomo": "labrecon_ct.readers.nxtomo:NXtomoReader",
        }

    @property
    def steps(self) -> Mapping[str, Any]:
        """Preparation steps by the names that recipes use."""
        return {
            "zingers": "labrecon_ct.steps.zingers:zingers",
            "flat_field": "labrecon_ct.steps.flat_field:flat_field",
            "bad_pixels": "labrecon_ct.steps.bad_pixels:bad_pixels",
            "rings": "labrecon_ct.steps.rings:rings",
            "centre": "labrecon_ct.steps.centre:centre",
            "noise_level": "labrecon_ct.steps.noise_level:noise_level",
            "paganin": "labrecon_ct.steps.paganin:paganin",
            "subset": "labrecon_ct.steps.subset:subset",
            "crop": "labrecon_ct.steps.detector:crop",
            "bin": "labrecon_ct.steps.detector:bin_detector",
        }

    @property
    def exporters(self) -> Mapping[str, Exporter]:
        """Learned angles as a table."""
        return {"angles-csv": export_angles}

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """``recon`` (FBP), ``tv``, ``compare`` with every fourth view, ``train`` and ``demo``."""
        prepare = [{"step": name} for name in PREPARE]
        direct: dict[str, Any] = {
            "prepare": prepare,
            "operator": {"uses": 2},
            "solver": {"name": "direct"},
        }
        fourth = [{"step": "subset", "every": 4}]
        tv: dict[str, Any] = {"operator": {}, "solver": FISTA, "prior": TV}
        beside = [
            {"title": "TV, every 4th view", "prepare": fourth, **tv},
            {"title": "FBP, every 4th view", "prepare": fourth},
        ]
        demo = {"prepare": prepare, **tv, "prior": {**TV, "relative_weight": 2e-3}}
        return {
            "recon": direct,
            "tv": {"prepare": prepare, **tv},
            "compare": {**direct, "compare": beside},
            # Line integrals are precise: TV takes little.
            "train": {
                "prepare": prepare,
                "operator": {},
                "network": {"name": "unrolled", "threshold": 1e-3},
            },
            "design": DESIGN,
            "demo": {**demo, "compare": [{"title": "FBP", "solver": {"name": "direct"}}]},
        }

    # -- experimental design -------------------------------------------------------------------

    def with_acquisitions(self, geometry: Any, count: int) -> CTGeometry:
        """So many views, evenly over the same range of angles."""
        return with_views(geometry, count)

    def baselines(
        self, geometry: Any, design: str, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Equispaced, golden and random angles; golden ones among candidate views; even doses."""
        if design == "angles":
            return usual_angles(geometry, generator)
        if design == "dose":
            return usual_doses(geometry, generator)
        axis, _, k = design.partition(":")
        return usual_members(geometry, int(k)) if axis == "angle" and k else {}

    def designed(self, geometry: Any, designs: Mapping[str, Tensor]) -> CTGeometry:
        """With learned angles; or with the chosen views of ``members``, and their dose."""
        if "members" not in designs:
            made: CTGeometry = super().designed(geometry, designs)
            return made
        chosen = (designs["members"] > 0.5).nonzero()[:, 0].tolist()
        dose = geometry.dose and tuple(geometry.dose[i] for i in chosen)
        angles = tuple(geometry.angles[i] for i in chosen)
        return CTGeometry.model_validate({**dict(geometry), "angles": angles, "dose": dose})

    def budget(self, geometry: Any, designs: Mapping[str, Tensor]) -> Mapping[str, str]:
        """Views, and the dose in units of that of one view."""
        members = designs.get("members")
        views = len(geometry.angles) if members is None else int((members > 0).sum())
        dose = views if geometry.dose is None else sum(geometry.dose)
        if "dose" in designs:
            dose = float(designs["dose"].sum())
        return {"views": str(views), "dose": f"{dose:.6g} times that of one view"}

    def show_design(self, geometry: Any, designs: Mapping[str, Tensor], figure: Any) -> bool:
        """The fan of views, or the dose of each."""
        from labrecon_ct.designs import draw_views

        return draw_views(geometry, designs, figure)

    def voxel_size(self, geometry: Any) -> tuple[float, ...] | None:
        """In mm along (y, x) or (z, y, x)."""
        voxel: tuple[float, ...] = geometry.voxel
        return voxel


def export_angles(geometry: BaseModel, design: Mapping[str, Tensor], path: Path) -> None:
    """Angles in degrees, and the relative dose where there is one, as CSV: a row per view.

    Args:
        geometry: gives what is not designed.
        design: may hold ``angles`` in rad and ``dose``.
        path: of the file.
    """
    assert isinstance(geometry, CTGeometry)
    angles = design.get("angles", torch.tensor(geometry.angles, dtype=torch.float64))
    dose = design.get("dose")
    if dose is None and geometry.dose is not None:
        dose = torch.tensor(geometry.dose)
    degrees = torch.rad2deg(angles.detach().double()).tolist()
    lines = ["view,angle_deg" + (",dose" if dose is not None else "")]
    for i, angle in enumerate(degrees):
        lines.append(f"{i},{angle:.6f}" + (f",{float(dose[i]):.6g}" if dose is not None else ""))
    target = path if path.suffix else path.with_suffix(".csv")
    write_file(target, "\n".join(lines) + "\n", force=True)
