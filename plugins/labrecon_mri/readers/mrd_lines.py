"""The acquisitions of an MRD file: sorted by what they are for, and checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError
from labrecon_mri.readers.border import check_finite

if TYPE_CHECKING:
    import h5py

__all__ = ["FLAGS", "Lines", "read_lines", "sort_lines"]

#: Bits of ``flags``, counted from 1 as in ismrmrd.h.
FLAGS = {
    "noise": 19,
    "calibration": 20,
    "calibration and imaging": 21,
    "reversed": 22,
    "navigator": 23,
    "phase correction": 24,
    "last in measurement": 25,
    "feedback": 26,
    "dummy": 27,
    "real-time feedback": 28,
    "surface coil correction": 29,
    "phase stabilisation reference": 30,
    "phase stabilisation": 31,
}
NO_IMAGING = tuple(list(FLAGS)[7:])
NEEDED = ("flags", "number_of_samples", "active_channels", "trajectory_dimensions", "idx")


@dataclass(frozen=True)
class Lines:
    """Acquisitions: headers, samples (coil, sample) and trajectories (sample, axis) of each."""

    heads: NDArray[Any]
    samples: list[NDArray[Any]]
    paths: list[NDArray[Any]]
    numbers: NDArray[Any] = field(default_factory=lambda: np.empty(0, int))

    def __len__(self) -> int:
        return len(self.samples)

    def chosen(self, which: NDArray[Any]) -> Lines:
        """Those where ``which`` is true."""
        places = np.flatnonzero(which)
        return Lines(
            self.heads[places],
            [self.samples[i] for i in places],
            [self.paths[i] for i in places],
            self.numbers[places],
        )

    def flagged(self, name: str) -> NDArray[Any]:
        """Which of them have a flag."""
        return (self.heads["flags"] >> np.uint64(FLAGS[name] - 1)) & np.uint64(1) > 0

    def kept(self, i: int) -> slice:
        """The samples of a line that are not to be discarded."""
        head = self.heads[i]
        return slice(int(head["discard_pre"]), len(self.samples[i][0]) - int(head["discard_post"]))


def read_lines(table: h5py.Dataset) -> Lines:
    """All acquisitions in the dataset.

    Raises:
        ReaderError: it is no table of acquisitions, or a header does not fit its samples.
    """
    names = table.dtype.names or ()
    fields = table.dtype["head"].names or () if "head" in names else ()
    missing = [n for n in ("head", "traj", "data") if n not in names]
    missing += [n for n in NEEDED if n not in fields]
    if missing or table.ndim != 1:
        raise ReaderError(
            f"{table.name} is no table of MRD acquisitions: {', '.join(missing)} missing"
        )
    if not table.shape[0]:
        raise ReaderError(f"{table.name} holds no acquisitions: was the scan stopped at once?")
    rows = table[()]
    heads = rows["head"]
    samples, paths = [], []
    for number, (head, data, path) in enumerate(
        zip(heads, rows["data"], rows["traj"], strict=True)
    ):
        coils, n = int(head["active_channels"]), int(head["number_of_samples"])
        dims = int(head["trajectory_dimensions"])
        if data.size != 2 * coils * n or path.size != dims * n:
            raise ReaderError(
                f"acquisition {number} holds {data.size // 2} samples and {path.size} trajectory "
                f"values, its header says {coils} channels of {n} samples and {dims} trajectory "
                f"components ({coils * n} and {dims * n}): the file is damaged"
            )
        cut = int(head["discard_pre"]) + int(head["discard_post"])
        if cut >= n:
            raise ReaderError(f"acquisition {number} discards {cut} of its {n} samples")
        samples.append(data.astype(np.float32, copy=False).view(np.complex64).reshape(coils, n))
        paths.append(path.astype(np.float32, copy=False).reshape(n, dims))
    return Lines(heads, samples, paths, np.arange(len(samples)))


def sort_lines(lines: Lines, found: dict[str, str], ignored: dict[str, str]) -> dict[str, Lines]:
    """``imaging``, ``calibration``, ``navigator`` and ``noise`` lines of the first encoding.

    Raises:
        ReaderError: none is for imaging, they differ in channels or length, or hold NaN.
    """
    first = lines.heads["encoding_space_ref"] == 0
    noise = lines.flagged("noise")
    others = ~first & ~noise
    if others.any():
        ignored["other encodings"] = f"{int(others.sum())} lines of encodings from 1 on"
    left = ~others
    for name in NO_IMAGING:
        extra = lines.flagged(name) & left & ~noise
        if extra.any():
            ignored[name] = f"{int(extra.sum())} lines flagged {name}"
        left &= ~extra
    navigator = (lines.flagged("navigator") | lines.flagged("phase correction")) & left & ~noise
    left &= ~navigator & ~noise
    calibration = lines.flagged("calibration") | lines.flagged("calibration and imaging")
    only = lines.flagged("calibration") & ~lines.flagged("calibration and imaging")
    parts = {
        "imaging": lines.chosen(left & ~only),
        "calibration": lines.chosen(left & calibration),
        "navigator": lines.chosen(navigator),
        "noise": lines.chosen(noise),
    }
    if not len(parts["imaging"]):
        told = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if len(part))
        raise ReaderError(
            f"the file holds {len(lines)} lines and none for imaging"
            f"{f' ({told})' if told else ''}: is it a noise or adjustment scan of its own?"
        )
    found["lines"] = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if len(part))
    coils = int(parts["imaging"].heads["active_channels"][0])
    for name, part in parts.items():
        _check(part, name, coils)
    return parts


def _check(part: Lines, name: str, coils: int) -> None:
    if not len(part):
        return
    channels = part.heads["active_channels"]
    if (channels != coils).any():
        odd = int((channels != coils).argmax())
        raise ReaderError(
            f"{name} line {part.numbers[odd]} has {channels[odd]} channels, the imaging lines "
            f"begin with {coils}: a channel was lost, or two scans were put together"
        )
    counts = Counter(int(n) for n in part.heads["number_of_samples"])
    if len(counts) > 1 and name in ("imaging", "calibration"):
        usual = counts.most_common(1)[0][0]
        odd = int((part.heads["number_of_samples"] != usual).argmax())
        raise ReaderError(
            f"{name} line {part.numbers[odd]} has {part.heads['number_of_samples'][odd]} samples, "
            f"{counts[usual]} others have {usual}: the file is damaged, or holds several scans"
        )
    for number, samples in zip(part.numbers, part.samples, strict=True):
        check_finite(samples, f"{name} line {number}", "coil, sample")
