"""A volume on its way: slabs that are done, in a hidden folder beside the output."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from labrecon.errors import OutputError, RecipeError
from labrecon.io.atomic import explain, take_name, write_file
from labrecon.io.plain import dumps

__all__ = ["VOLUME", "PartialVolume", "Slices", "check_not_begun"]

VOLUME = "volume.zarr"
#: Most slices in a chunk of the stored volume.
CHUNK = 128
_RUN = "run.json"


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.slabs")


def check_not_begun(out: Path, *, force: bool) -> None:
    """Raise `OutputError` where an unfinished run in slabs waits and ``force`` is off."""
    if _folder(out).exists() and not force:
        raise OutputError(
            f"an unfinished run in slabs waits in {_folder(out)}; go on with --resume, or use "
            "--force to start again"
        )


@dataclass(frozen=True)
class Slices:
    """How a scan is cut: ``total`` slices in slabs of ``size``, stored in chunks of ``chunk``.

    Every slab is read with ``size`` slices, so that all have one geometry and one operator; the
    last one is read from further up, and only its end is kept.
    """

    total: int
    size: int
    chunk: int

    @classmethod
    def of(cls, total: int, size: int) -> Slices:
        """Slabs of at most about ``size`` slices that are multiples of a chunk."""
        size = max(1, min(size, total))
        count = math.ceil(size / CHUNK)
        chunk = math.ceil(size / count)
        return cls(total, min(chunk * count, total), chunk)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """First slice, end, and the first that is read, of each slab."""
        for start in range(0, self.total, self.size):
            stop = min(start + self.size, self.total)
            yield start, stop, stop - self.size

    def middle(self) -> tuple[int, int, int]:
        """The slab from which all take what is found anew."""
        slabs = list(self)
        return slabs[len(slabs) // 2]


@dataclass(frozen=True)
class PartialVolume:
    """What is done of a volume: its rows in a Zarr array, and a marker for each slab.

    A marker is written after the rows of its slab, and no chunk of the array has rows of two:
    whatever kills the process, a slab that has its marker is whole.

    Attributes:
        out: the output that it will be.
        told: what holds for all slabs.
    """

    out: Path
    told: Mapping[str, Any]

    @classmethod
    def create(
        cls, out: Path, like: Tensor, total: int, rows: int, told: Mapping[str, Any]
    ) -> Self:
        """An empty one; what was begun before is deleted.

        Args:
            out: the output that it will be.
            like: one slab.
            total: rows of the volume.
            rows: of a chunk; slabs must be multiples of it.
            told: plain values that hold for all slabs.

        Raises:
            OutputError: it can not be written.
        """
        from labrecon.io.zarr import create_zarr

        folder = _folder(out)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            dtype = like.new_empty(0).cpu().numpy().dtype
            create_zarr(folder / VOLUME, (total, *like.shape[1:]), dtype, rows)
            # Last: a folder without it was never begun.
            write_file(folder / _RUN, dumps(told))
        except OSError as error:
            raise OutputError(explain(out, error)) from error
        return cls(out, json.loads(dumps(told)))

    @classmethod
    def load(cls, out: Path) -> Self:
        """The one that was begun.

        Raises:
            RecipeError: there is none, or it is damaged.
        """
        file = _folder(out) / _RUN
        try:
            return cls(out, json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise RecipeError(
                f"there is nothing to resume: {file.parent} has no slab; run without --resume"
            ) from error
        except ValueError as error:
            raise RecipeError(f"{file} is damaged: {error}; start again with --force") from error

    def done(self) -> dict[int, dict[str, Any]]:
        """What was told of each finished slab, by its first row."""
        markers = sorted(_folder(self.out).glob("slab-*.json"))
        found = [json.loads(file.read_text(encoding="utf-8")) for file in markers]
        return {record["start"]: record for record in found}

    def add(self, start: int, rows: Tensor, told: Mapping[str, Any]) -> None:
        """Write a slab, then its marker.

        Raises:
            OutputError: it can not be written.
        """
        from labrecon.io.zarr import open_zarr

        folder = _folder(self.out)
        values = rows.detach().cpu().resolve_conj().numpy()
        try:
            open_zarr(folder / VOLUME)[start : start + len(rows)] = values
            record = dumps({**told, "start": start, "stop": start + len(rows)})
            write_file(folder / f"slab-{start:08d}.json", record, force=True)
        except OSError as error:
            raise OutputError(f"{folder} can not be written: {error}; free some space, then "
                              "the same command with --resume goes on") from error  # fmt: skip

    def read(self, start: int, stop: int) -> Tensor:
        """Some rows of the volume."""
        from labrecon.io.zarr import open_zarr

        return torch.from_numpy(open_zarr(_folder(self.out) / VOLUME)[start:stop])

    def slabs(self, rows: int) -> Iterator[Tensor]:
        """All rows, so many at a time."""
        total = int(self.told["total"])
        return (self.read(low, min(low + rows, total)) for low in range(0, total, rows))

    def finish(self, files: Mapping[str, str], info: Mapping[str, Any], *, force: bool) -> None:
        """Give it the name of the output, with further files and without the markers.

        Raises:
            OutputError: the output is taken, or can not be written.
        """
        from labrecon.io.zarr import describe_zarr

        folder = _folder(self.out)
        try:
            describe_zarr(folder / VOLUME, info)
            for name, text in files.items():
                write_file(folder / name, text, force=True)
            take_name(folder, self.out, force=force)
            # Last, so that whatever kills the process leaves one that can go on, or a whole output.
            for file in (*self.out.glob("slab-*.json"), self.out / _RUN):
                file.unlink()
        except OSError as error:
            raise OutputError(explain(self.out, error)) from error
