"""One scan, from its file to a folder with volume, provenance and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon import plugins, stages
from labrecon.errors import Interrupted, LabreconError, OutputError, ScanError
from labrecon.instrument import Instrument, Scan
from labrecon.interruption import Checkpoint
from labrecon.io.atomic import check_output, new_folder, write_text
from labrecon.io.plain import dumps, plain
from labrecon.io.provenance import collect, hash_inputs
from labrecon.plan import Plan, Writer, find_instrument, make_plans, make_writer
from labrecon.plugins import Host
from labrecon.recipe import Recipe, load_recipe
from labrecon.report import ReportData, render
from labrecon.solver import Solution
from labrecon.stages import Clock, Outcome, Watcher
from labrecon.summary import summarize

__all__ = ["Result", "reconstruct", "reconstruct_scan"]


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


@dataclass
class _Job:
    """One reconstruction under way."""

    instrument: Instrument
    source: str
    out: Path
    recipe: Recipe
    plans: list[Plan]
    writer: Writer
    device: torch.device
    host: Host
    clock: Clock
    force: bool = False
    checkpoint: Checkpoint | None = None
    warnings: list[str] = field(default_factory=list)


def reconstruct(
    instrument: str | Instrument,
    path: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> Result:
    """Reconstruct the scan in a file and write volume, provenance and report to ``out``.

    Nothing partial is left when it fails. Ctrl-C in a solve saves its state beside ``out``, from
    which ``resume=True`` goes on with the same bits.

    Args:
        instrument: a registered name, or an instrument.
        path: the scan.
        out: a folder that does not exist yet.
        recipe: a TOML file, a name from ``instrument.recipes()``, or values.
        overrides: dotted assignments on top of the recipe: ``"solver.iterations=50"``.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        resume: go on with an interrupted run; its saved recipe is used.
        force: replace ``out`` if it is an earlier output.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name or option; exit code 2.
        ScanError: the scan can not be read or prepared; 3.
        ReconstructionError: memory, divergence, an unsuitable solver; 4.
        OutputError: ``out`` is taken or can not be written; 5.
        Interrupted: Ctrl-C in a solve; 130.
    """
    path = Path(path)
    checkpoint = Checkpoint.load(Path(out)) if resume else None
    if checkpoint is not None:
        recipe = checkpoint.told["recipe"]
    job = _job(
        instrument,
        str(path),
        out,
        recipe,
        overrides,
        device,
        force,
        watcher,
        host or plugins.host(),
    )
    job.checkpoint = checkpoint
    _tell(job, "labrecon_scan_started", path=str(path), recipe=job.recipe.plain())
    try:
        with job.clock("read"):
            scan = stages.read(job.instrument, path, job.host)
        with job.clock("hash"):
            inputs = _hashes(path, scan)
        result = _carry_out(job, scan, inputs)
    except BaseException as error:
        _tell(job, "labrecon_scan_failed", path=str(path), error=error)
        raise
    _tell(
        job,
        "labrecon_scan_finished",
        path=str(path),
        output=str(result.output),
        summary=result.summary,
    )
    return result


def reconstruct_scan(
    instrument: Instrument,
    scan: Scan,
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    device: str = "auto",
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> Result:
    """Like `reconstruct`, for a scan in memory, such as a simulated one."""
    source = str(scan.provenance.get("source", "memory"))
    job = _job(
        instrument, source, out, recipe, overrides, device, force, watcher, host or plugins.host()
    )
    return _carry_out(job, scan, [])


def _job(
    instrument: str | Instrument,
    source: str,
    out: str | Path,
    recipe: str | Path | Mapping[str, Any],
    overrides: Iterable[str],
    device: str,
    force: bool,
    watcher: Watcher | None,
    host: Host,
) -> _Job:
    """Everything that can be refused before any long work."""
    if isinstance(instrument, str):
        instrument = find_instrument(instrument, host)
    loaded = load_recipe(recipe, instrument, overrides)
    plans = make_plans(loaded, instrument, host)
    writer = make_writer(loaded, host)
    where = Path(out)
    check_output(where, force=force)
    if not resume:
        check_no_checkpoint(where)
    return _Job(
        instrument,
        source,
        where,
        loaded,
        plans,
        writer,
        stages.pick_device(device),
        host,
        Clock(watcher=watcher),
        force,
    )


def _hashes(path: Path, scan: Scan) -> list[dict[str, Any]]:
    files = [Path(str(name)) for name in scan.provenance.get("files", (path,))]
    try:
        return hash_inputs(files)
    except OSError as error:
        raise ScanError(f"{path} can not be hashed: {error}") from error


def _carry_out(job: _Job, scan: Scan, inputs: list[dict[str, Any]]) -> Result:
    if job.checkpoint is not None:
        job.warnings += job.checkpoint.check(job.instrument.name, inputs)
    with torch.no_grad():
        outcomes = _solve_all(job, scan, inputs)
    result = _write(job, outcomes, inputs)
    if job.checkpoint is not None:
        job.checkpoint.remove()
    return result


def _solve_all(job: _Job, scan: Scan, inputs: list[dict[str, Any]]) -> list[Outcome]:
    plan, *others = job.plans
    with job.clock("prepare"):
        prepared = stages.prepare(scan, plan)
    with job.clock("operator"):
        task = stages.pose(job.instrument, prepared, plan, job.device)
    with job.clock("solve"):
        begun = job.checkpoint.solution(task.solver, job.device) if job.checkpoint else None
        main = stages.run(task, job.clock.watcher, begun)
    _stop_if_interrupted(job, main, main.solution, inputs)
    outcomes = [main]
    for other in others:
        try:
            with job.clock("compare"):
                outcome = _compare(job, other, main)
        except LabreconError as error:
            job.warnings.append(f"the comparison {other.title!r} failed: {error}")
            continue
        _stop_if_interrupted(job, outcome, main.solution, inputs)
        outcomes.append(outcome)
    return outcomes


def _compare(job: _Job, plan: Plan, main: Outcome) -> Outcome:
    scan = stages.prepare(main.task.scan, plan)
    # Steps that leave the geometry alone hand on the same object.
    same = scan.geometry is main.task.scan.geometry and plan.operator == main.task.plan.operator
    operator = main.task.problem.operator if same else None
    task = stages.pose(job.instrument, scan, plan, job.device, operator)
    return stages.run(task, job.clock.watcher)


def _stop_if_interrupted(
    job: _Job, outcome: Outcome, main: Solution, inputs: list[dict[str, Any]]
) -> None:
    if outcome.solution.status != "interrupted":
        return
    folder = Checkpoint.save(
        job.out, main, instrument=job.instrument.name, inputs=inputs, recipe=job.recipe.plain()
    )
    raise Interrupted(
        f"interrupted in {outcome.task.plan.title!r} after iteration {outcome.solution.state.k}; "
        f"the state is in {folder}; the same command with --resume goes on from there",
        folder,
    )


def _write(job: _Job, outcomes: list[Outcome], inputs: list[dict[str, Any]]) -> Result:
    facts = summarize(outcomes, job.host, job.warnings)
    scan = outcomes[0].task.scan
    provenance = collect(
        host=job.host,
        inputs=inputs,
        device=job.device,
        timings=job.clock.seconds,
        instrument=job.instrument.name,
        scan=job.source,
        reader=scan.provenance,
        recipe=job.recipe.plain(),
        seed=job.recipe.seed,
        geometry=scan.geometry,
        steps=scan.steps,
        **facts,
    )
    data = ReportData(job.instrument, job.source, outcomes, provenance, job.warnings)
    info = {
        "title": f"{job.instrument.name}: {Path(job.source).name}",
        "axes": data.axes,
        "voxel_size": data.voxel_size,
        "unit": job.instrument.unit,
        "provenance": provenance,
    }
    volume = outcomes[0].solution.x.detach().cpu()
    with new_folder(job.out, force=job.force) as folder:
        with job.clock("write"):
            try:
                file = job.writer(folder / "volume", volume, info)
            except (TypeError, ValueError) as error:
                raise OutputError(f"output.format {job.recipe.output.format!r}: {error}") from error
        with job.clock("report"):
            write_text(folder / "report.html", render(data, job.host))
        provenance["volume"] = file.name
        provenance["timings_seconds"] = job.clock.rounded()
        write_text(folder / "provenance.json", dumps(provenance))
    told = {
        **facts,
        "instrument": job.instrument.name,
        "scan": job.source,
        "output": str(job.out),
        "volume": str(job.out / file.name),
        "report": str(job.out / "report.html"),
        "timings_seconds": job.clock.rounded(),
        "warnings": job.warnings,
    }
    return Result(job.out, volume, plain(told), job.warnings)


def _tell(job: _Job, event: str, **told: Any) -> None:
    job.warnings += [f"a plugin failed at {event}: {why}" for why in job.host.call(event, **told)]
