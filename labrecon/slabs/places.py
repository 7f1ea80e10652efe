"""Where a scan is cut into slabs, and what is read for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from labrecon.errors import RecipeError
from labrecon.instrument import Reader, Scan
from labrecon.slabs.volume import Slices

__all__ = ["Halo", "PartReader", "Place", "places", "seen_beyond"]

Halo = int | Literal["auto"]


class PartReader(Reader, Protocol):
    """A reader of files that may be larger than memory.

    One whose slices see each other has ``halo``, too: ``halo(path, start, stop)`` is how many
    slices before and after those its data also see, with which `Operator.initial` of a part is that
    of the whole; None for files whose slices do not. Its ``own_fields`` are those of the geometry
    that differ between parts.
    """

    def parts(self, path: Path) -> int | None:
        """The number of slices of the object; None where it can not be read in parts."""
        ...

    def read_part(self, path: Path, start: int, stop: int) -> Scan:
        """The scan of the slices ``start`` to ``stop − 1``; the rest is not read.

        Data, object and calibration (its second axis) have that many along their first axis where
        slices do not see each other. Otherwise the object has, and the data are those that see
        nothing else of the volume.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Slices ``start`` to ``stop − 1``, for which those from ``low`` to ``high − 1`` are read."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def halo(self) -> tuple[int, int]:
        """Slices that are read and cut off, before and after."""
        return self.start - self.low, self.high - self.stop


def seen_beyond(reader: PartReader, path: Path, start: int, stop: int) -> tuple[int, int] | None:
    """Slices before and after that data of some slices also see; None where they are apart."""
    halo = getattr(reader, "halo", None)
    found: tuple[int, int] | None = None if halo is None else halo(path, start, stop)
    return found


def places(reader: PartReader, path: Path, slices: Slices, halo: Halo = "auto") -> list[Place]:
    """All slabs of a scan.

    Slices that do not see each other are read with as many for each slab, so that all have one
    geometry and one operator; the last slab is read from further up, and only its end is kept.
    Others are read with a halo, which is cut off what is reconstructed: data of a slab's edge see
    something beyond it, too, and would have to be left out.

    Args:
        reader: of the scan.
        path: the scan.
        slices: how the volume is divided.
        halo: slices before and after each slab; "auto": all that data of the slab see.

    Raises:
        RecipeError: a slab with its halo is the whole volume; or a halo for slices that do not see
            each other.
    """
    made = []
    for start, stop, low in slices:
        seen = seen_beyond(reader, path, start, stop)
        if seen is None:
            if halo not in ("auto", 0):
                raise RecipeError(f"slices of {path} do not see each other: leave out the halo")
            made.append(Place(start, stop, low, stop))
            continue
        before, after = seen if halo == "auto" else (halo, halo)
        place = Place(start, stop, max(0, start - before), min(stop + after, slices.total))
        if place.high - place.low == slices.total > stop - start:
            raise RecipeError(
                f"slices {start} to {stop - 1} need a halo of {place.halo[0]} slices before and "
                f"{place.halo[1]} after, and are then the whole volume of {slices.total}: take "
                "more, thinner slabs; where that does not help, rays cross too many slices for "
                "slabs: leave out --slabs"
            )
        made.append(place)
    return made
