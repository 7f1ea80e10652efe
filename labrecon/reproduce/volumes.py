"""The volumes of two outputs, compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.errors import OutputError
from labrecon.io.provenance import hash_slabs, hash_volume
from labrecon.io.volumes import EXACT, read_volume
from labrecon.reproduce.comparison import Comparison, compare, compare_parts, unlike
from labrecon.reproduce.record import Record

__all__ = ["StoredSlabs", "compare_outputs"]


def compare_outputs(then: Record, now: Record, notes: list[str]) -> Comparison:
    """Compare the volumes in two outputs; by their hashes where one can not be read.

    Args:
        then: the output.
        now: the one that was made again.
        notes: what a reader should know of the comparison is added.
    """
    hashes = [each.told.get("volume_sha256") for each in (then, now)]
    paths = [each.folder / each.told["volume"] for each in (then, now)]
    try:
        if then.slabs is None:
            old, new = (
                read_volume(path, each.shape) for path, each in zip(paths, (then, now), strict=True)
            )
            comparison, digest = compare(old, new), hash_volume(old)
        else:
            slabs = [StoredSlabs(path) for path in paths]
            comparison, digest = _compare_slabs(*slabs), slabs[0].sha256()
    except OutputError as error:
        notes.append(f"compared by SHA-256 only: {error}")
        if not hashes[0]:
            return Comparison(
                False, "there is nothing to compare with: the provenance has no SHA-256 of a volume"
            )
        same = hashes[0] == hashes[1]
        return Comparison(same, "" if same else "the SHA-256 of the volume's content differs")
    if not hashes[0]:
        notes.append("an older labrecon made it: whether its volume was changed can not be told")
    elif paths[0].suffix in EXACT and digest != hashes[0]:
        again = "as it was" if hashes[0] == hashes[1] else "other than it was"
        notes.append(
            f"{paths[0].name} was changed after it was made: its content has not the SHA-256 of "
            f"then; the new volume is {again}"
        )
    return comparison


def _compare_slabs(old: StoredSlabs, new: StoredSlabs) -> Comparison:
    """Some rows at a time: the volumes may be larger than memory."""
    why = unlike((old.dtype, new.dtype), (old.shape, new.shape))
    if why:
        return Comparison(False, why)
    return compare_parts(zip(old.parts(), new.parts(old.rows), strict=True), old.shape)


class StoredSlabs:
    """A Zarr volume that is read a few rows at a time.

    Args:
        path: of the volume.

    Raises:
        OutputError: there is none, or it can not be read.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path
        try:
            group: Any = zarr.open_group(str(path), mode="r")
            self._array = group["data"]
            self.shape = tuple(self._array.shape)
            self.rows = int(self._array.chunks[0])
            self.dtype: torch.dtype = self._read(0, 0).dtype
        except OutputError:
            raise
        except Exception as error:
            # A damaged store can break the library in its own way.
            raise OutputError(f"{path} can not be read: {type(error).__name__}: {error}") from error

    def parts(self, rows: int | None = None) -> Iterator[Tensor]:
        """All rows, so many at a time: a chunk of them by default."""
        rows, total = rows or self.rows, self.shape[0]
        return (self._read(i, min(i + rows, total)) for i in range(0, total, rows))

    def sha256(self) -> str:
        """`labrecon.io.provenance.hash_volume` of it."""
        return hash_slabs(self.parts(), self.dtype, self.shape)

    def _read(self, start: int, stop: int) -> Tensor:
        try:
            values = self._array[start:stop]
        except Exception as error:
            raise OutputError(
                f"{self.path} can not be read: {type(error).__name__}: {error}"
            ) from error
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
