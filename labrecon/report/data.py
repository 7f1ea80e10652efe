"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labrecon.instrument import Instrument, Scan

if TYPE_CHECKING:
    from labrecon.stages import Outcome

__all__ = ["ReportData"]


@dataclass(frozen=True)
class ReportData:
    """What a report, and a plugin's section of it, is made of.

    Attributes:
        instrument: what measured the scan.
        source: the scan's file, or "simulated".
        outcomes: the main reconstruction, then those to compare.
        provenance: as in ``provenance.json``.
        warnings: shown at the top.
    """

    instrument: Instrument
    source: str
    outcomes: list[Outcome]
    provenance: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def main(self) -> Outcome:
        """The main reconstruction."""
        return self.outcomes[0]

    @property
    def scan(self) -> Scan:
        """The scan as prepared for the main reconstruction."""
        return self.main.task.scan

    @property
    def axes(self) -> tuple[str, ...]:
        """Name of each axis of the volume, batch axes first."""
        domain = self.main.task.problem.operator.domain
        extra = self.main.solution.x.ndim - domain.ndim
        names = ("slice",) if extra == 1 else tuple(f"batch{i}" for i in range(extra))
        return (*names, *domain.axes)

    @property
    def voxel_size(self) -> tuple[float | None, ...] | None:
        """Size along each axis of the volume in mm, None where it is unknown."""
        sizes = self.instrument.voxel_size(self.scan.geometry)
        if sizes is None or not self.scan.pixel_size_known:
            return None
        unknown = self.main.solution.x.ndim - len(sizes)
        return (*[None] * unknown, *sizes)

    @property
    def unit(self) -> str:
        """Unit of the object's values; per pixel where the scan does not say how long one is."""
        unit = self.instrument.unit
        return unit if self.scan.pixel_size_known else unit.replace("mm", "px")
