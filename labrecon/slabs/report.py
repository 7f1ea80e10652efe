"""Report, provenance and summary of a volume that was made in slabs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon import stages
from labrecon.io.call import called
from labrecon.io.plain import dumps, plain
from labrecon.io.provenance import collect, hash_options, hash_slabs
from labrecon.job import Job
from labrecon.posing import Task
from labrecon.report import ReportData, render
from labrecon.report.page import page_or_warning
from labrecon.report.sections import Section
from labrecon.slabs.volume import VOLUME, PartialVolume
from labrecon.solver import Solution, State
from labrecon.summary import find, summarize

__all__ = ["finish"]


def finish(
    job: Job, partial: PartialVolume, task: Task, x: Tensor, record: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """Judge the middle slab again for the pictures, write all files, and return the summary.

    Args:
        job: what was asked for.
        partial: the volume, all of whose slabs are done.
        task: of the middle slab.
        x: its reconstruction.
        record: what was told of it.
        size: slices of a slab.
    """
    slabs = [done for _, done in sorted(partial.done().items())]
    state = State(int(record["iterations"]))
    history = [{key: float(value) for key, value in one.items()} for one in record["history"]]
    solution = Solution(x, state, record["status"], history, float(record["seconds"]))
    outcome = stages.judge(task, solution)
    facts = summarize([outcome], job.host, job.warnings)
    whole = _whole(slabs)
    facts |= {key: whole[key] for key in ("status", "iterations", "chi2")}
    shape = tuple(partial.told["shape"])
    facts["reconstructions"][0] |= {
        "status": whole["status"],
        "iterations": whole["iterations"],
        "seconds": whole["seconds"],
        "shape": list(shape),
        "slabs": len(slabs),
        "lowest_chi2": whole["lowest"],
        "highest_chi2": whole["highest"],
    }
    with job.clock("hash"):
        digest = hash_slabs(partial.slabs(size), x.dtype, shape)
    provenance = collect(
        host=job.host,
        inputs=partial.told["inputs"],
        option_files=hash_options(job.recipe.plain()),
        volume_sha256=digest,
        call=called(job.asked, job.instrument, job.source, other_geometry=False),
        device=job.device,
        timings=job.clock.rounded(),
        instrument=job.instrument.name,
        scan=job.source,
        reader=task.scan.provenance,
        recipe=partial.told["recipe"],
        seed=job.recipe.seed,
        geometry=task.scan.geometry,
        steps=task.scan.steps,
        slabs=[{key: v for key, v in slab.items() if key != "history"} for slab in slabs],
        halo=partial.told.get("halo", "auto"),
        found_by_the_middle_slab=partial.told["found"],
        volume=VOLUME,
        **facts,
    )
    data = ReportData(job.instrument, job.source, [outcome], provenance, job.warnings)
    facts["findings"] = provenance["findings"] = find(data, job.host, job.warnings)
    info = {
        "title": f"{job.instrument.name}: {Path(job.source).name}",
        "axes": data.axes,
        "voxel_size": data.voxel_size,
        "unit": data.unit,
        "provenance": provenance,
        "geometry": task.scan.geometry,
    }
    section = _section(slabs, int(record["start"]), shape)
    with job.clock("report"):
        page = page_or_warning(lambda: render(data, job.host, (section,)), job.warnings)
    provenance["timings_seconds"] = job.clock.rounded()
    files = {"report.html": page, "provenance.json": dumps(provenance)}
    partial.finish(files, info, force=job.force)
    return plain(
        {
            **facts,
            "instrument": job.instrument.name,
            "scan": job.source,
            "output": str(job.out),
            "volume": str(job.out / VOLUME),
            "report": str(job.out / "report.html"),
            "timings_seconds": job.clock.rounded(),
            "warnings": job.warnings,
        }
    )


def _whole(slabs: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of the volume from those of its slabs."""
    unfinished = [slab["status"] for slab in slabs if slab["status"] != "converged"]
    known = [slab["quality"] for slab in slabs if slab["quality"]["chi2"] is not None]
    values = torch.tensor([q["chi2"] for q in known], dtype=torch.float64)
    samples = torch.tensor([q["samples"] for q in known], dtype=torch.float64)
    return {
        "status": unfinished[0] if unfinished else "converged",
        "iterations": max(slab["iterations"] for slab in slabs),
        "seconds": sum(slab["seconds"] for slab in slabs),
        "chi2": float((values * samples).sum() / samples.sum()) if known else None,
        "lowest": float(values.min()) if known else None,
        "highest": float(values.max()) if known else None,
    }


def _section(slabs: list[dict[str, Any]], middle: int, shape: tuple[int, ...]) -> Section:
    joined = "halo" in slabs[0]
    rows = []
    for slab in slabs:
        quality = slab["quality"]
        chi2 = quality["chi2"]
        rows.append(
            (
                f"{slab['start']} to {slab['stop'] - 1}",
                *([f"{slab['halo'][0]} + {slab['halo'][1]}"] if joined else []),
                slab["status"],
                str(slab["iterations"]),
                f"{slab['seconds']:.3g}",
                "–" if chi2 is None else f"{chi2:.3g}",
                f"{quality['residual_std']:.3g}",
            )
        )
    place = next(slab for slab in slabs if slab["start"] == middle)
    size = " × ".join(map(str, shape))
    return Section(
        "Slabs",
        f"The volume of {size} voxels was made in {len(slabs)} slabs. Pictures and numbers on this "
        f"page, but for this table, are of the one with slice {middle} to {place['stop'] - 1}, "
        "whose preparation and weight of the prior hold for all."
        + (" A halo was read before and after each, and cut off its result." if joined else ""),
        columns=(
            "slices",
            *(["halo"] if joined else []),
            "ended by",
            "iterations",
            "seconds",
            "χ²",
            "residual σ",
        ),
        rows=rows,
    )
