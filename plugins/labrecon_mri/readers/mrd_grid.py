"""Cartesian MRD lines on the grid of k-space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError
from labrecon_mri.readers.border import FRAMES, check_memory
from labrecon_mri.readers.mrd_header import Encoding, Limits
from labrecon_mri.readers.mrd_lines import Lines

__all__ = ["Grid", "frames_of", "on_grid"]

Values = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """Lines in their places.

    Attributes:
        values: (*frames, coil, *matrix), zero where nothing was measured; means of repeated lines.
        measured: (*frames, *matrix), bool.
        backwards: lines that were read backwards, (*frames, *matrix[:-1]), bool.
    """

    values: Values
    measured: Values
    backwards: Values


def frames_of(heads: Values, names: tuple[str, ...] = FRAMES) -> tuple[dict[str, int], Values]:
    """Counters that take several values: their names and sizes, and (line, frame axis) indices."""
    frames: dict[str, int] = {}
    places = []
    for name in names:
        distinct, place = np.unique(heads["idx"][name], return_inverse=True)
        if len(distinct) > 1:
            frames[name] = len(distinct)
            places.append(place)
    return frames, np.stack(places, 1) if places else np.empty((len(heads), 0), int)


def on_grid(
    lines: Lines,
    encoding: Encoding,
    ndim: int,
    frames: dict[str, int],
    places: Values,
    assumed: dict[str, str],
    *,
    average: bool = False,
) -> Grid:
    """Put lines where encoding steps and centre samples say.

    Sample ``i`` of a line goes to column ``i − centre_sample + N//2``, line ``s`` to row
    ``s − centre of encodingLimits + N//2``. Lines flagged as reversed are turned round; their
    centre sample is counted along ``k``.

    Args:
        lines: of equal length.
        encoding: gives matrix and limits.
        ndim: 2, or 3 with rows along kz as well.
        frames: names and sizes of frame axes.
        places: (line, frame axis).
        assumed: is told what the header left open.
        average: take the mean of lines of the same place, instead of refusing them.

    Raises:
        ReaderError: a line does not fit the matrix or the limits, or two are the same.
    """
    x, y, z = encoding.matrix
    coils = len(lines.samples[0])
    axes = [("kspace_encode_step_1", "kspace_encoding_step_1", "y", y)]
    if ndim == 3:
        axes.insert(0, ("kspace_encode_step_2", "kspace_encoding_step_2", "z", z))
    elif (lines.heads["idx"]["kspace_encode_step_2"] != 0).any():
        raise ReaderError(
            "the encoded matrix is one pixel along z, and lines have kspace_encode_step_2 up to "
            f"{lines.heads['idx']['kspace_encode_step_2'].max()}: correct matrixSize in the header"
        )
    rows = [
        _rows(lines, step, encoding.limits.get(limit), axis, n, assumed)
        for step, limit, axis, n in axes
    ]
    shape = (*frames.values(), *(n for *_, n in axes))
    check_memory(math.prod(shape) * coils * x, f"k-space {shape} of {coils} coils by {x}")
    flat = np.ravel_multi_index((*places.T, *rows), shape)
    if not average:
        _refuse_repeated(lines, flat)
    backwards = lines.flagged("reversed")
    values = np.zeros((math.prod(shape), coils, x), np.complex64)
    counts = np.zeros((math.prod(shape), x), np.int64)
    for i, row in enumerate(flat):
        samples = lines.samples[i][:, lines.kept(i)]
        start = _start(lines, i, samples.shape[1], x, bool(backwards[i]), assumed)
        columns = slice(start, start + samples.shape[1])
        values[row, :, columns] += samples[:, ::-1] if backwards[i] else samples
        counts[row, columns] += 1
    if average:
        values /= np.maximum(counts, 1)[:, None]
    turned = np.zeros(math.prod(shape), bool)
    turned[flat[backwards]] = True
    ordered = values.reshape(*shape, coils, x)
    return Grid(
        np.ascontiguousarray(np.moveaxis(ordered, -2, len(frames))),
        (counts > 0).reshape(*shape, x),
        turned.reshape(shape),
    )


def _rows(
    lines: Lines, step: str, limits: Limits | None, axis: str, n: int, assumed: dict[str, str]
) -> Values:
    steps = lines.heads["idx"][step].astype(int)
    centre = n // 2
    if limits is None:
        assumed[f"centre of k{axis}"] = f"step {centre} (no encodingLimits)"
    else:
        centre = limits.centre
        beyond = (steps < limits.minimum) | (steps > limits.maximum)
        if beyond.any():
            odd = int(beyond.argmax())
            raise ReaderError(
                f"line {lines.numbers[odd]} has {step} = {steps[odd]}, outside of the header's "
                f"encodingLimits {limits.minimum} to {limits.maximum}: header and data are of "
                "different scans, or the file is damaged"
            )
    rows = steps - centre + n // 2
    outside = (rows < 0) | (rows >= n)
    if outside.any():
        odd = int(outside.argmax())
        raise ReaderError(
            f"line {lines.numbers[odd]} with {step} = {steps[odd]} is {steps[odd] - centre} steps "
            f"from the centre (step {centre}), and the encoded matrix has {n} pixels along {axis}: "
            "correct matrixSize or the centre in encodingLimits"
        )
    return rows


def _start(
    lines: Lines, i: int, count: int, x: int, backwards: bool, assumed: dict[str, str]
) -> int:
    """The column of the first kept sample."""
    head = lines.heads[i]
    centre = int(head["center_sample"]) - int(head["discard_pre"])
    if int(head["center_sample"]) == 0 and count == x:
        assumed["centre of kx"] = f"sample {x // 2} (center_sample is 0)"
        return 0
    if backwards and abs(centre - count // 2) > 1:
        raise ReaderError(
            f"line {lines.numbers[i]} is read backwards and its echo is at sample {centre} of "
            f"{count}: where the centre of k-space is can not be told. Store trajectories"
        )
    start = x // 2 - centre
    if start < 0 or start + count > x:
        raise ReaderError(
            f"line {lines.numbers[i]} has {count} samples with the centre of k-space at sample "
            f"{centre}, and the encoded matrix has {x} along x: correct matrixSize in the header, "
            "or store trajectories (ramp sampling, oversampling beyond the matrix)"
        )
    return start


def _refuse_repeated(lines: Lines, flat: Values) -> None:
    order = np.argsort(flat, kind="stable")
    same = np.flatnonzero(np.diff(flat[order]) == 0)
    if not len(same):
        return
    a, b = (int(lines.numbers[order[same[0] + k]]) for k in (0, 1))
    idx = lines.heads["idx"][order[same[0]]]
    told = ", ".join(f"{name} {idx[name]}" for name in ("kspace_encode_step_1", *FRAMES))
    raise ReaderError(
        f"{len(same)} lines were measured more than once with the same counters (lines {a} and "
        f"{b}: {told}), and one would overwrite the other: count them by average or repetition in "
        "the file, or average them first"
    )
