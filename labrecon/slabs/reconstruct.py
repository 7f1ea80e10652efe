"""A scan larger than memory: read, reconstructed and written a slab of slices at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from labrecon.clock import Watcher
from labrecon.errors import RecipeError
from labrecon.instrument import Instrument
from labrecon.interruption import check_not_interrupted
from labrecon.io.atomic import check_output
from labrecon.job import Job, assemble_job
from labrecon.plan import get
from labrecon.plugins import Host
from labrecon.slabs.places import Halo
from labrecon.slabs.run import SlabRun
from labrecon.slabs.volume import PartialVolume, check_not_begun
from labrecon.uncertainty.asked import is_sampler

__all__ = ["SlabsResult", "reconstruct_in_slabs"]


@dataclass(frozen=True)
class SlabsResult:
    """What `reconstruct_in_slabs` made; the volume is in the file.

    Attributes:
        output: the folder.
        summary: what ``--json`` prints.
        warnings: what went wrong without stopping it.
    """

    output: Path
    summary: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def reconstruct_in_slabs(
    instrument: str | Instrument,
    path: str | Path,
    out: str | Path,
    *,
    slabs: int | Literal["auto"] = "auto",
    size: int | None = None,
    halo: Halo = "auto",
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    model: str | Path | None = None,
    other_geometry: bool = False,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> SlabsResult:
    """`labrecon.recon.reconstruct` for a scan larger than memory, slab by slab.

    Slices that see each other, as those of a cone beam do, are read with a halo: a filtered
    back-projection is then that of the whole volume, an iteration comes near it. At no time there
    is more than one slab in memory. What preparation finds, such as a rotation
    centre, and a relative weight of the prior are those of the middle slab, for all. Statistics
    within a step (a median, a noise level), step sizes and tolerances are each slab's own.

    The volume is a Zarr array. A killed or interrupted run goes on with ``resume=True`` after the
    last slab that is written.

    Args:
        instrument: a registered name, or an instrument.
        path: the scan, of a format whose reader has ``read_part``.
        out: a folder that does not exist yet.
        slabs: how many of them; "auto" takes as few as memory allows.
        size: slices of a slab, in place of their number.
        halo: slices that are read before and after each slab, and cut off its reconstruction, where
            slices see each other: a cone beam. "auto": all that data of the slab see.
        recipe: see `labrecon.recon.reconstruct`; without comparisons and split halves.
        overrides: likewise.
        model: refused: a network is for volumes of the size that it was trained with.
        other_geometry: likewise.
        device: likewise.
        resume: go on with an unfinished run; its saved recipe and slabs are used.
        force: replace ``out`` if it is an earlier output, or an unfinished run to it.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: what slabs can not do: a model, comparisons, another format than Zarr; 2.
        ScanError: the scan can not be read in parts; 3.
        ReconstructionError: a prior joins slices; or see `labrecon.recon.reconstruct`; 4.
        OutputError: ``out`` is taken or can not be written; 5.
        Interrupted: Ctrl-C; finished slabs are kept; 130.
    """
    if model is not None or other_geometry:
        raise RecipeError(
            "a trained network is for volumes of the size that it was trained with: leave out "
            "--slabs, or --model"
        )
    if halo != "auto" and halo < 0:
        raise RecipeError(f"a halo of {halo} slices: give 0 or more, or 'auto'")
    out, path = Path(out), Path(path)
    begun = PartialVolume.load(out) if resume else None
    job = assemble_job(
        instrument,
        recipe=recipe if begun is None else begun.told["recipe"],
        overrides=overrides,
        device=device,
        force=force,
        watcher=watcher,
        host=host,
    )
    _require_possible(job)
    check_output(out, force=force)
    if begun is None:
        check_not_interrupted(out, force=force)
        check_not_begun(out, force=force)
    job = dataclasses.replace(job, source=str(path), out=out)
    job.tell("labrecon_scan_started", path=str(path), recipe=job.recipe.plain())
    try:
        with torch.no_grad():
            run = SlabRun(job, path)
            partial = run.begin(slabs, size, halo) if begun is None else run.go_on(begun)
            run.solve(partial)
            summary = run.finish(partial)
    except BaseException as error:
        job.tell("labrecon_scan_failed", path=str(path), error=error)
        raise
    job.tell("labrecon_scan_finished", path=str(path), output=str(out), summary=summary)
    return SlabsResult(out, summary, job.warnings)


def _require_possible(job: Job) -> None:
    recipe = job.recipe
    if recipe.compare:
        raise RecipeError(f"{recipe.where('compare')}: slabs are not compared: leave it out")
    if recipe.calibrate.nuisances:
        raise RecipeError(
            f"{recipe.where('calibrate', 'nuisances')}: each slab would find other values: "
            "calibrate on one slab's file, and write what is found into the recipe"
        )
    if recipe.quality.split is not False:
        raise RecipeError(
            f"{recipe.where('quality', 'split')}: slabs are not split in halves: leave it out"
        )
    bars = recipe.uncertainty
    for name, asked in (
        ("method", bars.method not in ("auto", "none")),
        ("calibration", bars.calibration is not None),
    ):
        if asked:
            raise RecipeError(
                f"{recipe.where('uncertainty', name)}: slabs have no error bars: leave it out"
            )
    if bars.method == "auto" and is_sampler(job, job.plans[0]):
        job.warnings.append("slabs have no error bars: of the samples only the mean is written")
    table = recipe.output
    other = table.format != "zarr" and "format" in table.model_fields_set
    if other or table.options:
        raise RecipeError(
            f"{recipe.where('output', 'format')}: slabs are written as Zarr, without options: "
            "leave it out"
        )
    # Said before hours of work, where the package is missing.
    get(job.host, "writers", "zarr", "--slabs")
    for name, function, _ in job.plans[0].steps:
        if getattr(function, "joins_slices", False):
            raise RecipeError(
                f"the step {name!r} looks at neighbouring slices, and slabs would show their "
                "seams: leave out the step, or --slabs"
            )
