"""One scan, from its file to a folder with volume, provenance and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labrecon import posing, reading, stages
from labrecon.clock import Watcher
from labrecon.errors import Interrupted, LabreconError, ModelError, OutputError, ScanError
from labrecon.halves import acquisition_axis, agreement, half_tasks, shared_start
from labrecon.instrument import Instrument, Scan
from labrecon.interruption import Checkpoint
from labrecon.io.provenance import hash_inputs
from labrecon.job import Job, open_job
from labrecon.operator import Operator
from labrecon.plan import Plan
from labrecon.plugins import Host
from labrecon.posing import Task
from labrecon.results import Inputs, Result, write
from labrecon.solver import Solution
from labrecon.stages import Outcome
from labrecon.uncertainty.asked import Asked, check_asked, error_bars
from labrecon.uncertainty.deviation import intervals_of

__all__ = ["compute", "load", "reconstruct", "reconstruct_scan"]

#: Seconds of a solve from which it is sooner resumed than repeated.
WORTH_KEEPING = 5.0


def reconstruct(
    instrument: str | Instrument,
    path: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    model: str | Path | None = None,
    other_geometry: bool = False,
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
        model: run folder of `labrecon train`: its network takes the place of solver and prior,
            and scans are prepared as in its training, unless ``recipe`` says otherwise.
        other_geometry: use the model on a geometry that it was not trained for.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        resume: go on with an interrupted run; its saved recipe is used.
        force: replace ``out`` if it is an earlier output.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name or option; exit code 2.
        ModelError: the model is damaged, or was trained for something else; 2.
        ScanError: the scan can not be read or prepared; 3.
        ReconstructionError: memory, divergence, an unsuitable solver; 4.
        OutputError: ``out`` is taken or can not be written; 5.
        Interrupted: Ctrl-C in a solve; 130.
    """
    path = Path(path)
    job = open_job(
        instrument,
        str(path),
        out,
        recipe=recipe,
        overrides=overrides,
        device=device,
        force=force,
        watcher=watcher,
        host=host,
        resume=resume,
        model=model,
        other_geometry=other_geometry,
    )
    check_asked(job)
    job.tell("labrecon_scan_started", path=str(path), recipe=job.recipe.plain())
    try:
        result = _carry_out(job, *load(job, path))
    except BaseException as error:
        job.tell("labrecon_scan_failed", path=str(path), error=error)
        raise
    job.tell(
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
    model: str | Path | None = None,
    other_geometry: bool = False,
    device: str = "auto",
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> Result:
    """Like `reconstruct`, for a scan in memory, such as a simulated one."""
    job = open_job(
        instrument,
        str(scan.provenance.get("source", "memory")),
        out,
        recipe=recipe,
        overrides=overrides,
        device=device,
        force=force,
        watcher=watcher,
        host=host,
        model=model,
        other_geometry=other_geometry,
    )
    check_asked(job)
    return _carry_out(job, scan, None)


def load(job: Job, path: Path) -> tuple[Scan, Inputs]:
    """The scan in a file, and the hashes of its files: the first third of `reconstruct`.

    Raises:
        ScanError: it can not be read.
    """
    with job.clock("read"):
        scan = reading.read(job.instrument, path, job.host)
    with job.clock("hash"):
        return scan, _hashes(path, scan)


def _hashes(path: Path, scan: Scan) -> list[dict[str, Any]]:
    files = [Path(str(name)) for name in scan.provenance.get("files", (path,))]
    try:
        return hash_inputs(files)
    except OSError as error:
        raise ScanError(f"{path} can not be hashed: {error}") from error


def _carry_out(job: Job, scan: Scan, inputs: Inputs) -> Result:
    if job.checkpoint is not None and inputs is not None:
        job.warnings += job.checkpoint.check(job.instrument.name, inputs)
    solved: list[Solution] = []
    try:
        outcomes = compute(job, scan, inputs, solved)
        result = write(job, outcomes, inputs)
    except Interrupted:
        raise
    except BaseException as error:
        _keep(job, solved, inputs, error)
        raise
    if job.checkpoint is not None:
        job.checkpoint.remove()
    return result


def _keep(job: Job, solved: list[Solution], inputs: Inputs, error: BaseException) -> None:
    """Save a long solve whose result could not be judged or written, and say so."""
    if not solved or inputs is None or solved[0].seconds < WORTH_KEEPING:
        return
    try:
        folder = Checkpoint.save(
            job.out,
            solved[0],
            instrument=job.instrument.name,
            inputs=inputs,
            recipe=job.recipe.plain(),
        )
    except OutputError:
        return
    told = f"the solve is done and saved in {folder}; the same command with --resume goes on"
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(f"interrupted after the solve; {told}", folder) from error
    if isinstance(error, LabreconError):
        raise type(error)(f"{error}; {told}") from error
    error.add_note(told)


@torch.no_grad()
def compute(
    job: Job, scan: Scan, inputs: Inputs, solved: list[Solution] | None = None
) -> list[Outcome]:
    """Prepare, solve and judge: the second third of `reconstruct`.

    Args:
        job: what is asked for.
        scan: as `load` returned it.
        inputs: likewise.
        solved: gets the main solution as soon as there is one.

    Raises:
        ScanError: the scan can not be prepared.
        ModelError: the model was trained for another acquisition.
        ReconstructionError: memory, divergence, an unsuitable solver.
        Interrupted: Ctrl-C in the solve.
    """
    plan, *others = job.plans
    with job.clock("prepare"):
        prepared = reading.prepare(job.instrument, scan, plan)
    with job.clock("operator"):
        operator = job.operators.get(job.instrument, prepared.geometry, plan.operator, job.device)
        _require_trained_for(job, prepared, operator)
        axis = acquisition_axis(job.recipe, job.instrument, operator)
        asked = error_bars(job, prepared.geometry, operator)
        task = posing.pose(job.instrument, prepared, plan, job.device, operator)
    if plan.calibrate.nuisances:
        with job.clock("calibrate"):
            task = posing.calibrated(task, job.clock.watcher)
    with job.clock("solve"):
        begun = job.checkpoint.solution(task.solver, job.device) if job.checkpoint else None
        solution = stages.run(task, job.clock.watcher, begun)
    _stop_if_interrupted(job, task, solution, solution, inputs)
    if solved is not None:
        solved.append(solution)
    if plan.model is not None and solution.status == "iterations":
        job.warnings.append(
            f"{plan.title}: its fixed point was not reached; the result is not what it was "
            "trained to be"
        )
    with job.clock("residual"):
        main = stages.judge(task, solution)
    # A direct inversion of real data seldom comes near them: that is not what it is for.
    if main.quality.doubt and (plan.model is not None or not task.solver.one_step):
        job.warnings.append(f"{plan.title}: {main.quality.doubt}")
    if main.calibration is not None:
        job.warnings += [f"calibration: {told}" for told in main.calibration.warnings]
    if axis is not None:
        main = _with_halves(job, main, axis, inputs)
    if asked is not None:
        main = _with_intervals(job, main, asked, inputs)
    outcomes = [main]
    for other in others:
        try:
            with job.clock("compare"):
                task = _comparison(job, other, main)
                solution = stages.run(task, job.clock.watcher)
                _stop_if_interrupted(job, task, solution, main.solution, inputs)
                outcomes.append(stages.judge(task, solution))
        except Interrupted:
            raise
        except LabreconError as error:
            job.warnings.append(f"the comparison {other.title!r} failed: {error}")
    return outcomes


def _with_halves(job: Job, main: Outcome, axis: str, inputs: Inputs) -> Outcome:
    """The outcome with its resolution by split halves, or with a warning."""
    try:
        with job.clock("halves"):
            x0 = shared_start(main.task)
            if x0 is not None and bool(x0.any()):
                job.warnings.append(
                    "both halves start from the first estimate of all data, so that their "
                    "resolution is sound only where the solver has gone far from it"
                )
            found = []
            for task in half_tasks(main, axis):
                solution = stages.run(task, job.clock.watcher, x0=x0)
                _stop_if_interrupted(job, task, solution, main.solution, inputs)
                found.append(solution.x)
            threshold = job.recipe.quality.threshold
            told = agreement(job.instrument, main, (found[0], found[1]), axis, threshold)
    except Interrupted:
        raise
    except LabreconError as error:
        job.warnings.append(f"the resolution by split halves failed: {error}")
        return main
    return replace(main, quality=replace(main.quality, split_half=told))


def _with_intervals(job: Job, main: Outcome, asked: Asked, inputs: Inputs) -> Outcome:
    """The outcome with its error bars, or with a warning."""

    def solved(task: Task) -> Solution:
        solution = stages.run(task, job.clock.watcher)
        _stop_if_interrupted(job, task, solution, main.solution, inputs)
        return solution

    try:
        with job.clock("uncertainty"):
            found = intervals_of(job, main, asked, solved)
    except Interrupted:
        raise
    except LabreconError as error:
        job.warnings.append(f"there are no error bars: {error}")
        return main
    if not found.mixed:
        job.warnings.append(
            f"error bars: R-hat {found.told['rhat']:.3g}: the chains do not agree, and their "
            "spread is not the posterior's: take more iterations, or a sampler that draws exactly"
        )
    return replace(main, intervals=found)


def _require_trained_for(job: Job, scan: Scan, operator: Operator) -> None:
    """Raise, or warn where it is accepted, on a model that was trained for another acquisition."""
    model = job.plans[0].model
    if model is None:
        return
    found = model.differences(scan.geometry, operator, job.instrument.tolerances)
    if not found:
        return
    told = "".join(f"\n  {line}" for line in found)
    if not job.other_geometry:
        raise ModelError(
            f"the model in {model.folder} was trained for another acquisition:{told}\n"
            "train one for this geometry, or use --other-geometry if the network should be tried "
            "on it all the same"
        )
    job.warnings.append(f"the model was trained for another acquisition:{told}")


def _comparison(job: Job, plan: Plan, main: Outcome) -> Task:
    scan = reading.prepare(job.instrument, main.task.scan, plan)
    # Steps that leave the geometry alone hand on the same object.
    same = scan.geometry is main.task.scan.geometry and plan.operator == main.task.plan.operator
    operator = main.task.problem.operator if same else None
    task = posing.pose(job.instrument, scan, plan, job.device, operator)
    # An operator that was calibrated for the main reconstruction is not calibrated again.
    known = replace(task, calibration=main.task.calibration) if same else task
    return posing.calibrated(known, job.clock.watcher)


def _stop_if_interrupted(
    job: Job, task: Task, solution: Solution, main: Solution, inputs: Inputs
) -> None:
    if solution.status != "interrupted":
        return
    if inputs is None:
        # A scan in memory is gone with the process: there is nothing to resume.
        raise KeyboardInterrupt
    folder = Checkpoint.save(
        job.out, main, instrument=job.instrument.name, inputs=inputs, recipe=job.recipe.plain()
    )
    raise Interrupted(
        f"interrupted in {task.plan.title!r} after iteration {solution.state.k}; "
        f"the state is in {folder}; the same command with --resume goes on from there",
        folder,
    )
