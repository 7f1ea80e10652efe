"""The slabs of a scan, one after the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from labrecon import stages
from labrecon.arrays import Array
from labrecon.chunks import COPIES, SHARE, why_coupled
from labrecon.errors import Interrupted, LabreconError, RecipeError, ReconstructionError, ScanError
from labrecon.instrument import ReaderError, Scan
from labrecon.io.plain import plain
from labrecon.io.provenance import hash_inputs
from labrecon.job import Job
from labrecon.memory import GIB, free
from labrecon.plan import Plan
from labrecon.slabs.report import finish
from labrecon.slabs.volume import PartialVolume, Slices
from labrecon.stages import Outcome, Task

__all__ = ["SlabRun"]

T = TypeVar("T")


class SlabRun:
    """One scan in slabs: reads, prepares and solves them one by one.

    Args:
        job: what is asked for.
        path: the scan.

    Raises:
        ScanError: nobody reads it in parts.
    """

    def __init__(self, job: Job, path: Path) -> None:
        self.job, self.path = job, path
        self.format, reader = stages.find_reader(job.instrument, path, job.host)
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

    def begin(self, slabs: int | Literal["auto"]) -> PartialVolume:
        """Reconstruct the middle slab, which decides what holds for all."""
        slices = Slices.of(self.total, self._size(slabs))
        middle = slices.middle()
        scan = self._read(middle)
        task = self._pose(self._prepared(scan), self.job.plans[0])
        _require_apart(task, slices.size)
        geometry = task.scan.geometry
        # Arrays, such as coil sensitivities, belong to the slices.
        found = {
            name
            for name, value in dict(geometry).items()
            if value != getattr(scan.geometry, name) and not isinstance(value, Array)
        }
        outcome, record = self._solved(task)
        recipe = {**self.job.recipe.plain(), "output": {"format": "zarr"}}
        with self.job.clock("hash"):
            inputs = self._hashes(scan)
        x = outcome.solution.x
        told = {
            "instrument": self.job.instrument.name,
            "inputs": inputs,
            "recipe": recipe,
            "total": self.total,
            "size": slices.size,
            "shape": [self.total, *x.shape[1:]],
            "raw_geometry": scan.geometry.model_dump(mode="json"),
            "found": geometry.model_dump(mode="json", include=found),
            "weight": task.weight,
        }
        partial = PartialVolume.create(self.job.out, x, self.total, slices.chunk, told)
        self._keep(partial, middle, outcome, record)
        return partial

    def go_on(self, partial: PartialVolume) -> PartialVolume:
        """Check that an unfinished run is of this scan."""
        with self.job.clock("hash"):
            inputs = self._hashes(None)
        told = partial.told
        if self.job.recipe.plain() != told["recipe"]:
            raise RecipeError(
                "the slabs that are done were made with another recipe: leave out --set, or start "
                "again with --force"
            )
        same = [e["sha256"] for e in told["inputs"]] == [e["sha256"] for e in inputs]
        if not same or told["instrument"] != self.job.instrument.name:
            raise RecipeError(
                f"the unfinished run to {self.job.out} is of another scan or instrument; give "
                "that one, or start again with --force"
            )
        return partial

    def solve(self, partial: PartialVolume) -> None:
        """Reconstruct the slabs that are not done.

        Raises:
            Interrupted: Ctrl-C.
        """
        slices = Slices.of(self.total, int(partial.told["size"]))
        done = partial.done()
        try:
            for place in slices:
                if place[0] not in done:
                    # In one expression, so that no slab outlives the next.
                    self._keep(partial, place, *self._solved(self._posed(partial, place)))
        except KeyboardInterrupt as error:
            count = len(partial.done())
            raise Interrupted(
                f"interrupted; {count} of {len(list(slices))} slabs are done; the same command "
                "with --resume goes on with the next",
                self.job.out,
            ) from error

    def finish(self, partial: PartialVolume) -> dict[str, Any]:
        """Write report and provenance, and give the folder its name."""
        slices = Slices.of(self.total, int(partial.told["size"]))
        start, stop, low = slices.middle()
        # Judged anew for the report: what was known of it may be that of an earlier process.
        task = self._posed(partial, (start, stop, low))
        record = partial.done()[start]
        x = partial.read(low, stop).to(task.problem.data.device)
        return finish(self.job, partial, task, x, record, slices.size)

    # -- one slab ------------------------------------------------------------------------------

    def _posed(self, partial: PartialVolume, place: tuple[int, int, int]) -> Task:
        """A slab, ready to be solved with what the middle one found."""
        told = partial.told
        scan = self._read(place)
        if scan.geometry.model_dump(mode="json") != told["raw_geometry"]:
            raise ScanError(
                f"{self.path}: slices {place[0]} to {place[1] - 1} have another geometry than the "
                "middle ones: leave out --slabs"
            )
        prepared = self._prepared(scan)
        geometry = type(scan.geometry).model_validate({**dict(prepared.geometry), **told["found"]})
        plan = self.job.plans[0]
        weighed = plan.prior.model_copy(update={"weight": told["weight"], "relative_weight": None})
        plan = dataclasses.replace(plan, prior=weighed)
        return self._pose(prepared.replace(geometry=geometry), plan)

    def _read(self, place: tuple[int, int, int]) -> Scan:
        _, stop, low = place
        with self.job.clock("read"):
            scan: Scan = self._reading(lambda: self.reader.read_part(self.path, low, stop))
        return scan.replace(provenance={"reader": self.format, **scan.provenance})

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

    def _prepared(self, scan: Scan) -> Scan:
        plan = self.job.plans[0]
        with self.job.clock("prepare"):
            return stages.prepare(self.job.instrument, scan, plan)

    def _pose(self, scan: Scan, plan: Plan) -> Task:
        job = self.job
        with job.clock("operator"):
            operator = job.operators.get(job.instrument, scan.geometry, plan.operator, job.device)
            return stages.pose(job.instrument, scan, plan, job.device, operator)

    def _solved(self, task: Task) -> tuple[Outcome, dict[str, Any]]:
        with self.job.clock("solve"):
            solution = stages.run(task, self.job.clock.watcher)
        if solution.status == "interrupted":
            raise KeyboardInterrupt
        with self.job.clock("residual"):
            outcome = stages.judge(task, solution)
        record = {
            "status": solution.status,
            "iterations": solution.state.k,
            "seconds": solution.seconds,
            "history": solution.history,
            "quality": outcome.quality.numbers(),
            "steps": task.scan.steps,
        }
        return outcome, plain(record)

    def _keep(
        self,
        partial: PartialVolume,
        place: tuple[int, int, int],
        outcome: Outcome,
        record: dict[str, Any],
    ) -> None:
        start, _, low = place
        with self.job.clock("write"):
            partial.add(start, outcome.solution.x[start - low :], record)

    def _hashes(self, scan: Scan | None) -> list[dict[str, Any]]:
        if scan is None:
            scan = self._read((0, 1, 0))
        files = [Path(str(name)) for name in scan.provenance.get("files", (self.path,))]
        try:
            return hash_inputs(files)
        except OSError as error:
            raise ScanError(f"{self.path} can not be hashed: {error}") from error

    def _size(self, slabs: int | Literal["auto"]) -> int:
        if slabs != "auto":
            if not 1 <= slabs <= self.total:
                raise RecipeError(f"{slabs} slabs of {self.total} slices: give 1 to {self.total}")
            return math.ceil(self.total / slabs)
        middle = self.total // 2
        scan = self._read((middle, middle + 1, middle))
        job = self.job
        operator = stages.make_operator(
            job.instrument, scan.geometry, job.plans[0].operator, torch.device("cpu")
        )
        elements = scan.data.numel() * scan.data.element_size()
        elements += operator.domain.size * operator.domain.dtype.itemsize
        budget = job.plans[0].solver.memory
        left = min(free(torch.device("cpu")), free(job.device))
        allowed = SHARE * left if budget is None else budget * GIB
        return int(allowed // (COPIES * elements))


def _require_apart(task: Task, size: int) -> None:
    """Raise where something joins the slices of a slab, which is then not that of the whole."""
    data, domain = task.problem.data, task.problem.operator.domain
    shape = (*task.problem.batch, *domain.shape)
    if data.shape[0] != size or shape[0] != size:
        raise ReconstructionError(
            f"{size} slices were read, and preparation makes data {tuple(data.shape)} and an "
            f"object {shape} of them: leave out steps that crop or bin rows, or --slabs"
        )
    coupled = why_coupled(task.solver, len(shape) - 1)
    if coupled:
        raise ReconstructionError(
            f"{coupled}; slabs would show their seams: set prior.ndim, or leave out --slabs"
        )
