"""Instrument and Scan: what a plugin hands over."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator

__all__ = ["Curve", "Exporter", "Instrument", "Reader", "ReaderError", "Scan", "Step", "StepError"]


class ReaderError(ValueError):
    """A file is damaged, incomplete, or not of the kind that a reader reads."""


class StepError(ValueError):
    """A preparation step can not work on this scan, or was given numbers that make no sense."""


@dataclass(frozen=True)
class Curve:
    """A measured curve for the report, such as the score of a rotation-centre search."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    xlabel: str
    ylabel: str
    marker: float | None = None


@dataclass(frozen=True)
class Scan:
    """One acquisition, as a reader returns it.

    Attributes:
        data: measured data ``(*batch, *operator.range.shape)``, in the unit the noise speaks of.
        geometry: the instrument's geometry model.
        noise: how the data scatter.
        weights: per-sample weights, broadcast to ``data``; 0 marks bad samples.
        truth: the object, where it is known (simulations, phantoms).
        calibration: named arrays that preparation needs: flats, darks, noise scans.
        found: what the file said, in words a person reads: ``{"angles": "181, 0° to 179.0°"}``.
        assumed: what the file did not say and the reader assumed.
        ignored: what the file holds and the reader left out.
        steps: the preparation steps that were applied, in order, with their options and results.
        curves: diagnostics of those steps, for the report.
        provenance: source, format, reader; plain JSON values.
    """

    data: Tensor
    geometry: BaseModel
    noise: Noise = field(default_factory=Gaussian)
    weights: Tensor | None = None
    truth: Tensor | None = None
    calibration: Mapping[str, Tensor] = field(default_factory=dict)
    found: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    curves: tuple[Curve, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pixel_size_known(self) -> bool:
        """Whether the file said how long a pixel is."""
        return "pixel size" not in self.assumed

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_step(self, name: str, *, curve: Curve | None = None, **told: Any) -> Self:
        """A copy that records a preparation step and, optionally, its diagnostic curve."""
        curves = self.curves if curve is None else (*self.curves, curve)
        return self.replace(steps=(*self.steps, {"step": name, **told}), curves=curves)


class Reader(Protocol):
    """Reads one file format of an instrument.

    A reader may also have ``write(scan, path)`` and a ``suffix``: the conformance suite then reads
    back what it wrote.

    One whose files may be larger than memory has ``parts(path)``, the number of slices that do not
    see each other or None, and ``read_part(path, start, stop)``, the scan of some of them, in
    which data, object and calibration have that many along their first axis (frames of
    calibration: their second). The rest is not read (`labrecon recon --slabs`).
    """

    def matches(self, path: Path) -> bool:
        """Whether the file is of this format, judged by a look at its head; never raises."""
        ...

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: the file is truncated, inconsistent or lacks what a scan needs.
        """
        ...


class Step(Protocol):
    """A named preparation step: a function of a scan and its options.

    One that looks at neighbouring slices has an attribute ``joins_slices = True``: a scan is not
    prepared in slabs by it.
    """

    def __call__(self, scan: Scan, **options: Any) -> Scan:
        """The prepared scan, with the step recorded."""
        ...


#: ``exporter(geometry, designs, path)``; one with ``read(path)`` is checked by a round trip.
Exporter = Callable[[BaseModel, Mapping[str, Tensor], Path], None]


class Instrument(ABC):
    """What a plugin registers; the rest of labrecon needs nothing more.

    Attributes:
        name: the word used on the command line: ``labrecon recon NAME …``.
        title: one line for listings.
        Geometry: pydantic model of one acquisition, with units in the field descriptions.
        unit: unit of the object's values (``"1/mm"``), for volumes and grey-scale bars.
        data_unit: unit of the data as `operator` predicts them.
        limits: the lowest and highest value that an object can have, in ``unit``.
        upward: axes that grow upwards in pictures, such as ``("y",)`` of the sky.
        acquisitions: the axis of the data that counts acquisitions, such as ``"angle"``, where
            every second one of them sees the object as all do; the recipe's ``[quality] split =
            true`` deals them into halves.
        tolerances: relative differences of geometry fields up to which a network that was trained
            with other values serves all the same: infinite for what is found anew in each scan,
            such as a rotation centre. Fields that are not named must agree.
        noise_fields: fields of the geometry that say how data scatter, and that `operator` does not
            look at: scans that differ in nothing else share an operator.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    Geometry: ClassVar[type[BaseModel]]
    unit: ClassVar[str] = ""
    data_unit: ClassVar[str] = ""
    limits: ClassVar[tuple[float | None, float | None]] = (None, None)
    upward: ClassVar[tuple[str, ...]] = ()
    acquisitions: ClassVar[str] = ""
    tolerances: ClassVar[Mapping[str, float]] = {}
    noise_fields: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def example(self) -> BaseModel:
        """A small complete geometry, for demonstrations and checks."""

    def examples(self) -> Mapping[str, BaseModel]:
        """Small geometries of each kind of acquisition that has nuisances of its own, by kind.

        `labrecon describe` lists what can be calibrated with each.
        """
        return {"": self.example()}

    @abstractmethod
    def operator(self, geometry: Any, *args: Any, **options: Any) -> Operator:
        """The forward model of an acquisition; named options may be set by recipes."""

    @abstractmethod
    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> Tensor:
        """``n`` sample objects ``(n, *operator.domain.shape)`` for simulation and training."""

    def noise(self, geometry: Any) -> Noise:
        """The noise of an acquisition, in the unit of the operator's range."""
        return Gaussian()

    def assumed(self, geometry: Any) -> Any:
        """The geometry with what `noise` takes where it does not state it; most often the same.

        Networks and error bars are kept with it: a scan states what is unsaid in a file by hand.
        """
        return geometry

    @property
    def readers(self) -> Mapping[str, Reader]:
        """File formats by name, tried in order."""
        return {}

    @property
    def exporters(self) -> Mapping[str, Exporter]:
        """Formats in which a learned design goes back to the instrument."""
        return {}

    @property
    def steps(self) -> Mapping[str, Step]:
        """Preparation steps by name, as recipes call them."""
        return {}

    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """A recipe for each task: ``{"recon": {…}}``, in the form of a TOML recipe."""
        return {}

    def check(self, scan: Scan) -> None:  # noqa: B027
        """Raise `ReaderError` unless a prepared scan holds what `operator` predicts."""

    def simulate(self, geometry: Any, generator: torch.Generator) -> Scan:
        """A scan of one sample object: operator, then noise."""
        operator = self.operator(geometry)
        truth = self.objects(geometry, 1, generator)[0]
        noise = self.noise(geometry)
        with torch.no_grad():
            data = noise.sample(operator(truth), generator)
        return Scan(data, geometry, noise, truth=truth, provenance={"source": "simulated"})

    # -- experimental design -------------------------------------------------------------------

    def with_acquisitions(self, geometry: Any, count: int) -> Any:
        """The same instrument with so many acquisitions: exposures, views, shots, lines.

        Raises:
            ValueError: the instrument does not say what that would be, or it can not do so many.
        """
        raise ValueError(
            f"{self.name} does not say what another number of acquisitions would be "
            "(Instrument.with_acquisitions): give a geometry that has it"
        )

    def baselines(
        self, geometry: Any, design: str, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Values of a design that a lab would otherwise use, at equal budget, by name.

        One called ``"random"`` is where learning starts from beside the design as it is; several
        draws of it are compared with. Names of designs are those of ``operator.designs``.
        """
        return {}

    def designed(self, geometry: Any, designs: Mapping[str, Tensor]) -> Any:
        """The geometry of an acquisition with these designs.

        By default a design goes to the field of its name, or of the last part of a dotted one.

        Raises:
            ValueError: there is no such field; override it where geometry and design differ.
        """
        changes = {}
        for name, value in designs.items():
            field_name = name.rpartition(".")[2]
            if field_name not in self.Geometry.model_fields:
                raise ValueError(f"a geometry of {self.name} has no field for the design {name}")
            changes[field_name] = value.detach().cpu().tolist()
        return self.Geometry.model_validate({**dict(geometry), **changes})

    def budget(self, geometry: Any, designs: Mapping[str, Tensor]) -> Mapping[str, str]:
        """What an acquisition costs, in words: dose, time, light."""
        return {}

    def show_design(self, geometry: Any, designs: Mapping[str, Tensor], figure: Any) -> bool:
        """Draw designs as the hardware sees them, into a matplotlib figure; whether it did.

        The LED map, the fan of angles, k-space; and what of the object it sees: its transfer
        function, the coverage of its spectrum. Where it does not, numbers are plotted.
        """
        return False

    def gauge(self, x: Tensor) -> Tensor:
        """The object without what no acquisition can tell, such as the mean of a phase."""
        return x

    def voxel_size(self, geometry: Any) -> tuple[float, ...] | None:
        """Size of a voxel along each axis of the object in mm, or None where it has no length."""
        return None
