"""From a stack of frames to a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon.noise import Gaussian, Noise, PoissonGaussian
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.readers.border import (
    check_flats,
    check_memory,
    check_samples,
    describe_angles,
    real_dtype,
)

__all__ = ["Frames", "count_scan", "read_frames"]

BLOCK = 64


class Frames(Protocol):
    """An array on disk ``(frame, row, column)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows, columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        ...

    def __getitem__(self, index: Any) -> NDArray[Any]: ...


def read_frames(
    frames: Frames,
    chosen: Sequence[int] | NDArray[np.int64] | None,
    what: str,
    *,
    counts: bool = True,
    rows: slice | None = None,
) -> Tensor:
    """Chosen frames as float32 ``(frame, row, column)``, read in blocks and checked.

    Args:
        frames: the array on disk; to read some rows it must take a tuple of slices.
        chosen: frames; all by default.
        what: name for messages.
        counts: negative samples are refused.
        rows: a part of the detector; nothing else is read.

    Raises:
        ReaderError: not a stack of frames, not real numbers, NaN, negative counts, no memory, or
            the file ends before its data do.
    """
    if len(frames.shape) != 3:
        raise ReaderError(f"{what} has shape {tuple(frames.shape)}, expected (frame, row, column)")
    real_dtype(frames.dtype, what)
    index = np.arange(frames.shape[0]) if chosen is None else np.asarray(chosen, dtype=np.int64)
    if not len(index) or 0 in frames.shape:
        raise ReaderError(f"{what} holds no frames (shape {tuple(frames.shape)})")
    height = frames.shape[1] if rows is None else rows.stop - rows.start
    check_memory(len(index) * height * frames.shape[2], what)
    out = torch.empty(len(index), height, frames.shape[2], dtype=torch.float32)
    for low in range(int(index.min()), int(index.max()) + 1, BLOCK):
        inside = np.flatnonzero((index >= low) & (index < low + BLOCK))
        if not len(inside):
            continue
        try:
            some = slice(low, low + BLOCK)
            block = np.asarray(frames[some] if rows is None else frames[some, rows])
        except OSError as error:
            raise ReaderError(
                f"{what} can not be read from frame {low} on ({error}): the file is truncated or "
                "damaged; copy it again from the instrument"
            ) from error
        out[torch.from_numpy(inside)] = torch.from_numpy(
            block[index[inside] - low].astype(np.float32)
        )
    check_samples(out, what, counts=counts)
    return out


def count_scan(
    projections: Tensor,
    flats: Tensor | None,
    darks: Tensor | None,
    angles: NDArray[np.float64],
    geometry: Mapping[str, Any],
    *,
    path: Path,
    form: str,
    found: Mapping[str, str],
    assumed: Mapping[str, str],
    ignored: Mapping[str, str],
    times: Mapping[str, Tensor] | None = None,
    counts: bool = True,
    solid: bool = False,
    **provenance: Any,
) -> Scan:
    """A scan of frames: data ``(row, angle, column)``, or ``(angle, detector)`` for one row.

    Args:
        projections: ``(view, row, column)``.
        flats: open-beam frames ``(frame, row, column)``.
        darks: frames without beam.
        angles: in rad, one per view.
        geometry: fields of `CTGeometry` besides angles and detector size.
        path: of the file.
        form: name of the format.
        found: see `Scan`.
        assumed: see `Scan`.
        ignored: see `Scan`.
        times: ``view_time`` and ``flat_time``: 0 at the first projection, 1 at the last.
        counts: raw counts, or line integrals.
        solid: keep the axis of the rows, though there be one.
        **provenance: further plain values.

    Raises:
        ReaderError: flats and projections do not match, or the geometry is impossible.
    """
    check_flats(flats, darks)
    views, rows, columns = projections.shape
    flat = rows == 1 and not solid
    calibration = dict(times or {})
    for name, frames in (("flats", flats), ("darks", darks)):
        if frames is None:
            continue
        if frames.shape[1:] != projections.shape[1:]:
            raise ReaderError(
                f"{name} are {tuple(frames.shape[1:])} pixels, projections {(rows, columns)}: "
                "they must come from the same detector region"
            )
        calibration[name] = frames[:, 0] if flat else frames
    try:
        model = CTGeometry(
            angles=tuple(angles.tolist()),
            columns=columns,
            rows=None if flat else rows,
            **geometry,
        )
    except ValueError as error:
        raise ReaderError(f"impossible geometry: {error}") from error
    if solid and model.beam == "parallel" and not model.slicewise:
        raise ReaderError(
            f"rows {model.row_pitch} mm apart see slices {model.slice_thickness} mm thick: they "
            "can not be read apart; read the whole scan"
        )
    data = projections[:, 0] if flat else projections.transpose(0, 1).contiguous()
    noise: Noise = Gaussian()
    if counts:
        offset = 0.0 if darks is None else float(darks.double().mean())
        spread = 0.0 if darks is None or len(darks) < 2 else float(darks.double().std(0).median())
        noise = PoissonGaussian(spread, background=offset)
    told = {
        "projections": f"{views} of {rows} × {columns} pixels",
        "angles": describe_angles(angles),
        **({"flats": str(len(flats))} if flats is not None else {}),
        **({"darks": str(len(darks))} if darks is not None else {}),
        **found,
    }
    return Scan(
        data,
        model,
        noise,
        calibration=calibration,
        found=told,
        assumed=dict(assumed),
        ignored=dict(ignored),
        provenance={
            "source": str(path),
            "format": form,
            "quantity": "counts" if counts else "line integrals",
            **provenance,
        },
    )
