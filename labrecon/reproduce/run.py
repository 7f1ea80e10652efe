"""An output made again, and how far the two are apart."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrecon.batch.bench import SetupError
from labrecon.batch.tasks import Setup
from labrecon.clock import Watcher
from labrecon.errors import OutputError, RecipeError, ScanError
from labrecon.io.atomic import explain
from labrecon.reproduce.circumstances import differences
from labrecon.reproduce.comparison import Comparison
from labrecon.reproduce.located import locate, scan_among, with_options
from labrecon.reproduce.record import Record
from labrecon.reproduce.rerun import rerun
from labrecon.reproduce.slab_rerun import rerun_in_slabs
from labrecon.reproduce.volumes import compare_outputs

__all__ = ["TOLERANCE", "Reproduction", "finished_scans", "reproduce"]

#: Relative difference that another order of single-precision sums may make.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Reproduction:
    """What became of an attempt to make an output again.

    Attributes:
        output: the output.
        comparison: of its volume with the new one.
        tolerance: relative difference up to which they count as equal.
        differences: versions, machine, code and preparation that are not as they were.
        notes: what a reader should know of the comparison.
        seconds: that the new reconstruction took.
        kept: where its output is, if it was to be kept.
    """

    output: Path
    comparison: Comparison
    tolerance: float
    differences: list[str]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kept: Path | None = None

    @property
    def status(self) -> str:
        """``"bit-identical"``, ``"within tolerance"`` or ``"different"``."""
        if self.comparison.identical:
            return "bit-identical"
        return "within tolerance" if self.reproduced else "different"

    @property
    def reproduced(self) -> bool:
        """Whether the volume is the same, within the tolerance."""
        return self.comparison.within(self.tolerance)

    def told(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "output": str(self.output),
            "status": self.status,
            "tolerance": self.tolerance,
            "comparison": self.comparison.told(),
            "differences": self.differences,
            "notes": self.notes,
            "seconds": self.seconds,
            "kept": None if self.kept is None else str(self.kept),
        }


def finished_scans(folder: Path, sample: int, seed: int = 0) -> list[Path]:
    """So many outputs of a batch, drawn at random.

    Args:
        folder: of the batch.
        sample: how many; all if there are fewer.
        seed: of the draw.

    Raises:
        RecipeError: the folder is no batch, or nothing in it is finished.
    """
    scans = sorted(path.parent for path in (folder / "scans").rglob("provenance.json"))
    if not scans:
        raise RecipeError(f"{folder} is no batch with finished scans: there are none in its scans/")
    return sorted(random.Random(seed).sample(scans, min(sample, len(scans))))


def reproduce(
    folder: str | Path,
    *,
    renamed: Mapping[str, Path] | None = None,
    searched: Path | None = None,
    instrument: str | None = None,
    device: str | None = None,
    tolerance: float = TOLERANCE,
    keep: Path | None = None,
    watcher: Watcher | None = None,
) -> Reproduction:
    """Make an output again from its provenance, and compare the volumes.

    The stored recipe runs with the seed, device and number of threads of then, in a process of its
    own; a volume in slabs is made in the same ones. The output is not touched.

    Args:
        folder: an output of `labrecon.recon.reconstruct`, or of one scan of a batch.
        renamed: new paths of files or folders that were moved, by their old ones.
        searched: a folder in which moved files are found by their SHA-256.
        instrument: its name, or ``"module:Class"``, where that has changed.
        device: another one than that of then.
        tolerance: relative difference, in the largest value and in the RMS, that counts as equal.
        keep: folder in which the new output stays.
        watcher: told of the stages.

    Raises:
        RecipeError: the folder is no output that can be made again.
        ScanError: files that were read then are missing or have changed, or can not be read.
        ReconstructionError: the new solve failed.
        OutputError: ``keep`` is taken, or a disk is full.
        SetupError: instrument, recipe, model or device are not to be had here.
    """
    folder = Path(folder)
    record = Record.read(folder)
    if not tolerance >= 0.0:
        raise RecipeError(f"the tolerance is a relative difference, 0 or more, not {tolerance}")
    if keep is not None and (keep.exists() or keep.is_symlink()):
        raise OutputError(f"{keep} exists; name another folder to keep the new output in")
    found = locate(record, renamed, searched)
    recipe, notes = record.recipe()
    model = record.weights
    setup = Setup(
        instrument or _instrument(record),
        with_options(recipe, record, found),
        model=None if model is None else str(found[model].parent.absolute()),
        other_geometry=bool(record.call.get("other_geometry", model is not None)),
        device=device or record.device,
        threads=record.told["machine"]["threads"],
    )
    try:
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
        near = None if keep is None else keep.parent
        with tempfile.TemporaryDirectory(prefix=".labrecon-", dir=near) as scratch:
            new = Path(scratch) / "output"
            scan = scan_among(record, found)
            try:
                if record.slabs is None:
                    seconds = rerun(setup, scan, new, Path(scratch), watcher)
                else:
                    seconds = rerun_in_slabs(setup, record.slabs, scan, new, Path(scratch), watcher)
            except SetupError as error:
                called = record.call.get("folder", "")
                told = f"{error}; the reconstruction was called in {called}" if called else error
                raise SetupError(str(told), error.exit_code) from error
            told = json.loads((new / "provenance.json").read_text(encoding="utf-8"))
            _require_same_inputs(record, told)
            comparison = compare_outputs(record, Record(new, told), notes)
            if keep is not None:
                new.rename(keep)
    except OSError as error:
        raise OutputError(explain(keep or Path(tempfile.gettempdir()), error)) from error
    unlike = differences(record.told, told)
    return Reproduction(folder, comparison, tolerance, unlike, notes, seconds, keep)


def _instrument(record: Record) -> str:
    asked = str(record.call.get("instrument") or record.told["instrument"])
    if asked.startswith("__main__:") or "<locals>" in asked:
        raise RecipeError(
            f"the instrument was {asked.partition(':')[2]} of a script or notebook, which no other "
            "process finds; put it into a module and name it with --instrument module:Class"
        )
    return asked


def _require_same_inputs(record: Record, told: Mapping[str, Any]) -> None:
    """A companion file that was moved or left behind must not go unnoticed."""
    then, now = (sorted(e["sha256"] for e in each["inputs"]) for each in (record.told, told))
    if then != now:
        raise ScanError(
            f"the reader took other files than then: {len(set(then) - set(now))} of {len(then)} "
            "were not read; files that belong together must lie together as they did"
        )
