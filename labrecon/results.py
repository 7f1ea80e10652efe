"""What a reconstruction leaves: a folder with volume, provenance and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from labrecon.errors import OutputError
from labrecon.io.atomic import new_folder, write_text
from labrecon.io.call import called
from labrecon.io.plain import dumps, plain
from labrecon.io.provenance import collect, hash_options, hash_volume
from labrecon.job import Job
from labrecon.report import ReportData, render
from labrecon.report.page import page_or_warning
from labrecon.report.thumbnail import thumbnail
from labrecon.stages import Outcome
from labrecon.summary import find, summarize

__all__ = ["Inputs", "Result", "write"]

#: Hashes of the scan's files; None for a scan in memory.
Inputs = list[dict[str, Any]] | None


@dataclass(frozen=True)
class Result:
    """What `reconstruct` made.

    Attributes:
        output: the folder.
        volume: the reconstruction, on the CPU.
        summary: what ``--json`` prints: paths, status, iterations, χ², timings.
        warnings: what went wrong without stopping it.
    """

    output: Path
    volume: Tensor
    summary: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def _draw_thumbnail(job: Job, data: ReportData, path: Path) -> None:
    upward = job.instrument.upward
    try:
        picture = thumbnail(data.main.solution.x, data.axes, data.voxel_size, upward)
    except Exception as error:
        job.warnings.append(f"no thumbnail could be drawn: {type(error).__name__}: {error}")
        return
    path.write_bytes(picture)


def _write_half_width(job: Job, main: Outcome, folder: Path, info: dict[str, Any]) -> Path | None:
    """The half-widths of the error bars as a volume of their own; None where there are none."""
    if main.intervals is None:
        return None
    told = {**info, "title": f"{info['title']}, half-width of {main.intervals.level:g} intervals"}
    return job.writer(folder / "half_width", main.intervals.half_width, told)


def write(job: Job, outcomes: list[Outcome], inputs: Inputs) -> Result:
    """Write volume, provenance and report: the last third of `reconstruct`.

    Raises:
        OutputError: the folder is taken, or it can not be written.
    """
    with job.clock("quality"):
        facts = summarize(outcomes, job.host, job.warnings)
    scan = outcomes[0].task.scan
    model = outcomes[0].task.plan.model
    volume = outcomes[0].solution.x.detach().cpu()
    with job.clock("hash"):
        options = hash_options(job.recipe.plain())
        digest = hash_volume(volume)
    provenance = collect(
        host=job.host,
        inputs=inputs or [],
        option_files=options,
        volume_sha256=digest,
        call=called(
            job.asked,
            job.instrument,
            None if inputs is None else job.source,
            other_geometry=job.other_geometry,
        ),
        device=job.device,
        timings=job.clock.seconds,
        instrument=job.instrument.name,
        scan=job.source,
        reader=scan.provenance,
        recipe=job.recipe.plain(),
        seed=job.recipe.seed,
        geometry=scan.geometry,
        steps=scan.steps,
        **({} if model is None else {"model": model.told()}),
        **facts,
    )
    data = ReportData(job.instrument, job.source, outcomes, provenance, job.warnings)
    with job.clock("quality"):
        facts["findings"] = provenance["findings"] = find(data, job.host, job.warnings)
    info = {
        "title": f"{job.instrument.name}: {Path(job.source).name}",
        "axes": data.axes,
        "voxel_size": data.voxel_size,
        "unit": data.unit,
        "provenance": provenance,
        "geometry": scan.geometry,
    }
    with new_folder(job.out, force=job.force) as folder:
        with job.clock("write"):
            try:
                file = job.writer(folder / "volume", volume, info)
                bars = _write_half_width(job, outcomes[0], folder, info)
            except (TypeError, ValueError) as error:
                raise OutputError(f"output.format {job.recipe.output.format!r}: {error}") from error
        with job.clock("report"):
            page = page_or_warning(lambda: render(data, job.host), job.warnings)
            write_text(folder / "report.html", page)
            if job.thumbnail:
                _draw_thumbnail(job, data, folder / "thumbnail.png")
        provenance["volume"] = file.name
        if bars is not None:
            provenance["files"] = [bars.name]
        provenance["timings_seconds"] = job.clock.rounded()
        provenance["warnings"] = plain(job.warnings)
        write_text(folder / "provenance.json", dumps(provenance))
    told = {
        **facts,
        "instrument": job.instrument.name,
        "scan": job.source,
        "output": str(job.out),
        "volume": str(job.out / file.name),
        **({} if bars is None else {"half_width": str(job.out / bars.name)}),
        "report": str(job.out / "report.html"),
        "timings_seconds": job.clock.rounded(),
        "warnings": job.warnings,
    }
    return Result(job.out, volume, plain(told), job.warnings)
