"""The slabs of a scan, one after the other."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from labrecon import posing, reading, stages
from labrecon.arrays import Array
from labrecon.chunks import why_coupled
from labrecon.errors import Interrupted, RecipeError, ReconstructionError, ScanError
from labrecon.instrument import Scan
from labrecon.io.plain import plain
from labrecon.job import Job
from labrecon.plan import Plan
from labrecon.posing import Task
from labrecon.slabs.places import Halo, Place
from labrecon.slabs.report import finish
from labrecon.slabs.size import slices_that_fit, thickest
from labrecon.slabs.source import Source
from labrecon.slabs.volume import PartialVolume, Slices
from labrecon.solvers.direct import Direct
from labrecon.stages import Outcome

__all__ = ["SlabRun"]


class SlabRun:
    """One scan in slabs: reads, prepares and solves them one by one.

    Args:
        job: what is asked for.
        path: the scan.

    Raises:
        ScanError: nobody reads it in parts.
    """

    def __init__(self, job: Job, path: Path) -> None:
        self.job = job
        self.source = Source(job, path)

    def begin(self, slabs: int | Literal["auto"], size: int | None, halo: Halo) -> PartialVolume:
        """Reconstruct the middle slab, which decides what holds for all."""
        total = self.source.total
        if size is not None and not 1 <= size <= total:
            raise RecipeError(f"slabs of {size} of {total} slices: give 1 to {total}")
        slices = Slices.of(total, size or self._size(slabs, halo))
        all_places = self.source.places(slices, halo)
        middle = all_places[len(all_places) // 2]
        scan = self.source.read(middle)
        task = self._pose(self._prepared(scan), self.job.plans[0])
        # Arrays, such as coil sensitivities, belong to the slices.
        found = {
            name
            for name, value in dict(task.scan.geometry).items()
            if value != getattr(scan.geometry, name) and not isinstance(value, Array)
        }
        self._require_possible(task, middle, found, halo)
        outcome, record = self._solved(task)
        recipe = {**self.job.recipe.plain(), "output": {"format": "zarr"}}
        with self.job.clock("hash"):
            inputs = self.source.hashes(scan)
        x = outcome.solution.x
        told = {
            "instrument": self.job.instrument.name,
            "inputs": inputs,
            "recipe": recipe,
            "total": total,
            "size": slices.size,
            "halo": halo,
            "shape": [total, *x.shape[1:]],
            "raw_geometry": scan.geometry.model_dump(mode="json", exclude=self.source.own),
            "found": task.scan.geometry.model_dump(mode="json", include=found),
            "weight": task.weight,
        }
        partial = PartialVolume.create(self.job.out, x, total, slices.chunk, told)
        self._keep(partial, middle, outcome, record)
        return partial

    def go_on(self, partial: PartialVolume) -> PartialVolume:
        """Check that an unfinished run is of this scan."""
        with self.job.clock("hash"):
            inputs = self.source.hashes(None)
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
        begun = self._begun(partial)
        done = partial.done()
        try:
            for place in begun:
                if place.start not in done:
                    # In one expression, so that no slab outlives the next.
                    self._keep(partial, place, *self._solved(self._posed(partial, place)))
        except KeyboardInterrupt as error:
            count = len(partial.done())
            raise Interrupted(
                f"interrupted; {count} of {len(begun)} slabs are done; the same command "
                "with --resume goes on with the next",
                self.job.out,
            ) from error

    def finish(self, partial: PartialVolume) -> dict[str, Any]:
        """Write report and provenance, and give the folder its name."""
        begun = self._begun(partial)
        middle = begun[len(begun) // 2]
        # Judged anew for the report: what was known of it may be that of an earlier process. Its
        # halo is that of the volume now.
        task = self._posed(partial, middle)
        record = partial.done()[middle.start]
        x = partial.read(middle.low, middle.high).to(task.problem.data.device)
        return finish(self.job, partial, task, x, record, int(partial.told["size"]))

    def _begun(self, partial: PartialVolume) -> list[Place]:
        """The slabs of a run that has begun."""
        slices = Slices.of(self.source.total, int(partial.told["size"]))
        return self.source.places(slices, partial.told.get("halo", "auto"))

    # -- one slab ------------------------------------------------------------------------------

    def _posed(self, partial: PartialVolume, place: Place) -> Task:
        """A slab, ready to be solved with what the middle one found."""
        told = partial.told
        scan = self.source.read(place)
        if scan.geometry.model_dump(mode="json", exclude=self.source.own) != told["raw_geometry"]:
            raise ScanError(
                f"{self.source.path}: slices {place.start} to {place.stop - 1} have another "
                "geometry than the middle ones: leave out --slabs"
            )
        prepared = self._prepared(scan)
        geometry = type(scan.geometry).model_validate({**dict(prepared.geometry), **told["found"]})
        plan = self.job.plans[0]
        weighed = plan.prior.model_copy(update={"weight": told["weight"], "relative_weight": None})
        plan = dataclasses.replace(plan, prior=weighed)
        return self._pose(prepared.replace(geometry=geometry), plan)

    def _prepared(self, scan: Scan) -> Scan:
        plan = self.job.plans[0]
        with self.job.clock("prepare"):
            return reading.prepare(self.job.instrument, scan, plan)

    def _pose(self, scan: Scan, plan: Plan) -> Task:
        job = self.job
        with job.clock("operator"):
            operator = job.operators.get(job.instrument, scan.geometry, plan.operator, job.device)
            return posing.pose(job.instrument, scan, plan, job.device, operator)

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
        place: Place,
        outcome: Outcome,
        record: dict[str, Any],
    ) -> None:
        kept = outcome.solution.x[place.start - place.low : place.stop - place.low]
        if self.source.joined:
            record = {**record, "halo": place.halo}
        with self.job.clock("write"):
            partial.add(place.start, kept, record)

    def _size(self, slabs: int | Literal["auto"], halo: Halo) -> int:
        """Slices of a slab, without its halo."""
        total = self.source.total
        if slabs == "auto":
            scan, count = self.source.some()
            most = slices_that_fit(self.job, scan, count, total)
            return thickest(lambda slices: self.source.places(slices, halo), total, most)
        if not 1 <= slabs <= total:
            raise RecipeError(f"{slabs} slabs of {total} slices: give 1 to {total}")
        return math.ceil(total / slabs)

    def _require_possible(self, task: Task, place: Place, found: set[str], halo: Halo) -> None:
        """Raise where a slab is not what it would be in the whole."""
        data, domain = task.problem.data, task.problem.operator.domain
        shape, count = (*task.problem.batch, *domain.shape), place.high - place.low
        apart = self.source.joined or data.shape[0] == count
        if not apart or shape[0] != count or found & self.source.own:
            raise ReconstructionError(
                f"{count} slices were read, and preparation makes data {tuple(data.shape)} and an "
                f"object {shape} of them: leave out steps that crop or bin rows, or --slabs"
            )
        if self.source.joined and halo != "auto" and isinstance(task.solver, Direct):
            raise ReconstructionError(
                "a direct inversion needs all that its slices are seen on: leave out the halo"
            )
        coupled = why_coupled(task.solver, len(shape) if self.source.joined else len(shape) - 1)
        if coupled:
            raise ReconstructionError(
                f"{coupled}; slabs would show their seams: set prior.ndim, or leave out --slabs"
            )
