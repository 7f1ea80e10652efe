"""A scan's file, of which parts are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from labrecon import reading
from labrecon.errors import LabreconError, ScanError
from labrecon.instrument import ReaderError, Scan
from labrecon.io.provenance import hash_inputs
from labrecon.job import Job
from labrecon.slabs.places import Halo, Place, places, seen_beyond
from labrecon.slabs.volume import Slices

__all__ = ["Source"]

T = TypeVar("T")
#: Slices that are read for an estimate, where a ray crosses more than one.
_SAMPLE = 16


class Source:
    """The scan and its reader.

    Args:
        job: whose scan it is.
        path: the scan.

    Attributes:
        total: slices of the volume.
        joined: whether they see each other.
        own: fields of the geometry that each slab has for itself.

    Raises:
        ScanError: nobody reads it in parts.
    """

    def __init__(self, job: Job, path: Path) -> None:
        self.job, self.path = job, path
        self.format, reader = reading.find_reader(job.instrument, path, job.host)
        self.reader: Any = reader
        if not hasattr(self.reader, "read_part"):
            raise ScanError(
                f"{path}: files of the format {self.format!r} can not be read in parts: leave out "
                "--slabs"
            )
        total = self._reading(lambda: self.reader.parts(path))
        if total is None:
            raise ScanError(
                f"{path} has no slices that can be reconstructed apart (a single one, or they see "
                "each other): leave out --slabs"
            )
        self.total = int(total)
        self.joined = self._reading(lambda: seen_beyond(self.reader, path, 0, 1)) is not None
        self.own: set[str] = set(getattr(reader, "own_fields", ()) if self.joined else ())

    def places(self, slices: Slices, halo: Halo) -> list[Place]:
        """All slabs; see `labrecon.slabs.places.places`."""
        return self._reading(lambda: places(self.reader, self.path, slices, halo))

    def read(self, place: Place) -> Scan:
        """The scan of a slab and its halo.

        Raises:
            ScanError: it can not be read.
        """
        with self.job.clock("read"):
            scan: Scan = self._reading(
                lambda: self.reader.read_part(self.path, place.low, place.high)
            )
        return scan.replace(provenance={"reader": self.format, **scan.provenance})

    def some(self) -> tuple[Scan, int]:
        """A slice of the middle, or a few where a ray crosses more than one, and how many."""
        count = min(_SAMPLE, self.total) if self.joined else 1
        low = (self.total - count) // 2
        return self.read(Place(low, low + count, low, low + count)), count

    def hashes(self, scan: Scan | None = None) -> list[dict[str, Any]]:
        """Path, size and SHA-256 of each file.

        Args:
            scan: a part of it, which tells its files.

        Raises:
            ScanError: one can not be read.
        """
        if scan is None:
            scan, _ = self.some()
        files = [Path(str(name)) for name in scan.provenance.get("files", (self.path,))]
        try:
            return hash_inputs(files)
        except OSError as error:
            raise ScanError(f"{self.path} can not be hashed: {error}") from error

    def _reading(self, what: Callable[[], T]) -> T:
        try:
            return what()
        except ReaderError as error:
            raise ScanError(f"{self.path}: {error}") from error
        except LabreconError:
            raise
        except Exception as error:
            raise ScanError(
                f"{self.path} can not be read as {self.format}: {type(error).__name__}: {error}"
            ) from error
