"""A reconstruction made ready: operator, problem, solver, and what is calibrated before."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.calibration import Calibration, calibrate
from labrecon.calibration.unknowns import nuisance_named
from labrecon.chunks import elements_that_fit, largest, part, why_coupled
from labrecon.clock import Watcher
from labrecon.errors import RecipeError, ReconstructionError, ScanError
from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.memory import is_exhausted
from labrecon.operator import Operator
from labrecon.plan import Plan
from labrecon.problem import Problem
from labrecon.solver import Solver

__all__ = ["Task", "calibrated", "explained", "make_operator", "pick_device", "pose"]


@dataclass(frozen=True)
class Task:
    """A reconstruction that is ready to be solved.

    Attributes:
        plan: what the recipe says.
        scan: as prepared.
        problem: operator, data and noise on the device.
        solver: with its prior.
        weight: of the prior, where it has one.
        size: elements of the first batch axis that are solved at a time; None for all.
        calibration: what was estimated before the solve; the problem's operator has it.
    """

    plan: Plan
    scan: Scan
    problem: Problem
    solver: Solver
    weight: float | None
    size: int | None = None
    calibration: Calibration | None = None


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the first GPU, or else the CPU.

    Raises:
        ReconstructionError: torch has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ReconstructionError(f"device {name!r} is not available: {error}") from error
    return device


def make_operator(
    instrument: Instrument, geometry: Any, options: Mapping[str, Any], device: torch.device
) -> Operator:
    """The forward model of an acquisition.

    Raises:
        ReconstructionError: no memory for it, or the geometry is impossible.
    """
    with explained(f"{instrument.name} operator"):
        operator: Operator = instrument.operator(geometry, **options).to(device)
        return operator


def pose(
    instrument: Instrument,
    scan: Scan,
    plan: Plan,
    device: torch.device,
    operator: Operator | None = None,
) -> Task:
    """Operator, problem and solver for a prepared scan.

    Args:
        instrument: whose forward model is used.
        scan: the prepared scan.
        plan: what the recipe says.
        device: where to compute.
        operator: that of an equal geometry, which spares building it again.

    Raises:
        ScanError: the instrument finds that the scan is not prepared for its operator.
        RecipeError: ``[calibrate]`` names nuisances that this operator does not have.
        ReconstructionError: no memory for the operator, data that do not fit it, or a weight
            that can not be found.
    """
    try:
        instrument.check(scan)
    except ReaderError as error:
        raise ScanError(str(error)) from error
    if operator is None:
        operator = make_operator(instrument, scan.geometry, plan.operator, device)
    if plan.model is not None:
        operator = plan.model.as_calibrated(operator)
    _require_nuisances(plan, operator)
    with explained(f"{instrument.name} operator"):
        noise = copy.deepcopy(scan.noise).to(device)
        weights = None if scan.weights is None else scan.weights.to(device)
        problem = Problem(operator, scan.data.to(device), noise, weights)
    return _posed(plan, scan, problem)


def _require_nuisances(plan: Plan, operator: Operator) -> None:
    """Raise where the recipe is wrong, which only an operator can tell: a volume has a tilt."""
    table = plan.calibrate
    for key, names in (("nuisances", table.nuisances), ("bounds", table.bounds)):
        for name in names:
            try:
                nuisance_named(operator, name)
            except ValueError as error:
                raise RecipeError(f"calibrate.{key}: {error}") from error


def _posed(
    plan: Plan, scan: Scan, problem: Problem, calibration: Calibration | None = None
) -> Task:
    operator, device = problem.operator, problem.data.device
    with explained(plan.title):
        problem.validate()
        size = _elements(plan, problem, device)
        weight = _weight(plan, problem, size)
        solver = plan.build(weight, problem).to(device)
        coupled = None if size is None else why_coupled(solver, operator.domain.ndim)
        if coupled and plan.solver.batch is not None:
            raise ValueError(f"{coupled}: leave out solver.batch")
        size = None if coupled else size
        return Task(plan, scan, problem, solver, weight, size, calibration)


def calibrated(task: Task, watcher: Watcher | None = None) -> Task:
    """The task with the nuisances of ``[calibrate]`` estimated; the same where there are none.

    A stack is calibrated by as many evenly spread elements as are solved at a time.

    Raises:
        ReconstructionError: no such nuisance, impossible bounds, or no memory.
    """
    table, problem = task.plan.calibrate, task.problem
    if not table.nuisances or table.method != "projection" or task.calibration is not None:
        return task

    def watch(record: Mapping[str, float]) -> None:
        if watcher is not None:
            told = {"iteration": record["step"], "change": record.get("distance", math.inf)}
            watcher.step("calibration", told, table.iterations)

    elements, some = None, problem
    if task.size is not None:
        count = len(problem.data)
        some = part(problem, slice(None, None, math.ceil(count / task.size)))
        elements = len(some.data), count
    with explained("calibration"):
        operator, made = calibrate(
            some,
            table.nuisances,
            weight=table.weight,
            bounds=table.bounds,
            iterations=table.iterations,
            inner=table.inner,
            scan=table.scan,
            watch=watch,
        )
    made = dataclasses.replace(made, elements=elements)
    return _posed(task.plan, task.scan, dataclasses.replace(problem, operator=operator), made)


def _elements(plan: Plan, problem: Problem, device: torch.device) -> int | None:
    """Elements of a stack to solve at a time; None where it is no stack, or all of them fit."""
    if not problem.batch:
        if plan.solver.batch is not None:
            raise ValueError(f"solver.batch is for stacks; the data are {problem.operator.range}")
        return None
    given = plan.solver.batch
    fit = given or elements_that_fit(problem.operator, problem.batch, device, plan.solver.memory)
    return fit if fit < problem.batch[0] else None


def _weight(plan: Plan, problem: Problem, size: int | None) -> float | None:
    relative = plan.prior.relative_weight
    if relative is None:
        return plan.prior.weight

    def gradient(problem: Problem) -> Tensor:
        domain = problem.operator.domain
        return problem.gradient(domain.zeros(*problem.batch, device=problem.data.device))

    # Of the whole stack, so that all of its elements get the same weight.
    most = largest(problem, size, gradient)
    if not 0 < most < math.inf:
        raise ValueError(
            f"relative_weight is a fraction of max|∇D(0)|, which is {most} here; "
            "give prior.weight instead"
        )
    return relative * most


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what torch, an operator or a solver raises into a `ReconstructionError`."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        text = str(error) or type(error).__name__
        if is_exhausted(error):
            text = f"out of memory: {text}"
        raise ReconstructionError(f"{what}: {text}") from error
