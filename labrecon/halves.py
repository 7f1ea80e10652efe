"""Split halves: a scan's acquisitions dealt into two, each reconstructed, and compared.

The halves are made by weights, so that any operator works as it is. What preparation found (a
centre, flats, sensitivities, speckles) comes from all acquisitions and is in both halves: its
errors agree, and are not seen.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from labrecon.chunks import Joined, part
from labrecon.errors import RecipeError, ReconstructionError
from labrecon.fourier_shell import Threshold, shell_correlation
from labrecon.instrument import Instrument
from labrecon.operator import Operator
from labrecon.posing import Task, explained
from labrecon.problem import Problem
from labrecon.quality import SplitHalf
from labrecon.recipe import Recipe
from labrecon.solvers.direct import Direct
from labrecon.stages import Outcome, first_estimate

__all__ = ["acquisition_axis", "agreement", "half_tasks", "shared_start"]

#: Relative change by which a sample without weight may move an estimate, by rounding.
ROUNDING = 1e-3


def acquisition_axis(recipe: Recipe, instrument: Instrument, operator: Operator) -> str | None:
    """The axis of the data that ``[quality] split`` deals into halves; None where it is off.

    Raises:
        RecipeError: the data have no such axis, or the instrument names none.
    """
    split = recipe.quality.split
    if split is False:
        return None
    axes = operator.range.axes
    where, there = recipe.where("quality", "split"), ", ".join(axes)
    name = instrument.acquisitions if split is True else split
    if name in axes:
        return name
    if split is not True:
        raise RecipeError(f"{where}: the data have no axis {split!r}; their axes are {there}")
    why = f"counts acquisitions along {name!r}, which these data have not" if name else "names none"
    raise RecipeError(
        f"{where}: {instrument.name} {why}: give the axis whose samples are measured one by one; "
        f"the data have {there}"
    )


def half_tasks(main: Outcome, axis: str) -> tuple[Task, Task]:
    """The main task with the even acquisitions, and with the odd ones.

    The others have weight 0, and the value 0 for methods that know no weights. Those that count
    are weighted up, by about 2, so that the data term is as strong as that of all data: the same
    as half the prior's weight, for any prior, and step sizes that were tuned or learned stay right.

    Args:
        main: of all data; its prior's weight is taken as it is.
        axis: of the data. Acquisitions without any weight are passed over.

    Raises:
        ReconstructionError: fewer than two acquisitions, or a method that looks at samples
            without weight.
    """
    task, problem = main.task, main.task.problem
    space = problem.operator.range
    place = space.axes.index(axis) - space.ndim
    used = _used(problem, place)
    if len(used) < 2:
        raise ReconstructionError(
            f"the data have {len(used)} acquisitions along {axis!r} that count; two halves need 2"
        )
    halves = []
    for name, chosen in (("even", used[::2]), ("odd", used[1::2])):
        weight = torch.zeros(problem.data.shape[place], dtype=problem.data.real.dtype)
        weight[chosen] = len(used) / len(chosen)
        weight = weight.to(problem.data.device).reshape(-1, *[1] * (-place - 1))
        data = torch.where(weight > 0, problem.data, 0)
        weights = weight if problem.weights is None else weight * problem.weights
        half = Problem(problem.operator, data, problem.noise, weights)
        with explained(task.plan.title):
            half.validate()
            solver = task.plan.build(task.weight, half).to(data.device)
        plan = dataclasses.replace(task.plan, title=f"{task.plan.title}, {name} half")
        halves.append(dataclasses.replace(task, plan=plan, problem=half, solver=solver))
    first, second = halves
    state = main.solution.state
    size = state.size if isinstance(state, Joined) else task.size
    _require_weights_obeyed(*_brightest(first, problem.data, size))
    return first, second


def shared_start(task: Task) -> Tensor | None:
    """The first estimate of all data, where halves of them would give no sound one, or None.

    That of a nonlinear operator may be a single image, or a root: the half without it would start
    from zeros, where many methods stay.

    Raises:
        ReconstructionError: there is none.
    """
    if task.problem.operator.linear:
        return None
    with explained(task.plan.title):
        return first_estimate(task)


def agreement(
    instrument: Instrument,
    main: Outcome,
    halves: tuple[Tensor, Tensor],
    axis: str,
    threshold: Threshold,
) -> SplitHalf:
    """Correlation by frequency of the reconstructions of `half_tasks`.

    By shells where the object has three lengths, else by rings in its last two axes.

    Raises:
        ReconstructionError: the halves are the same, or are no images.
    """
    first, second = halves
    if bool(first.any()) and torch.equal(first, second):
        raise ReconstructionError(
            "both halves gave the very same result: the method does not look at the data's "
            "weights; take an iterative solver"
        )
    scan = main.task.scan
    sizes = instrument.voxel_size(scan.geometry)
    ndim = 2 if sizes is None else min(3, len(sizes))
    with explained("split halves"):
        curve = shell_correlation(
            instrument.gauge(first),
            instrument.gauge(second),
            ndim=ndim,
            spacing=None if sizes is None else sizes[-ndim:],
        )
    pixel = None if sizes is None or not scan.pixel_size_known else min(sizes[-ndim:])
    return SplitHalf(axis, threshold, curve, curve.resolution(threshold), pixel)


def _used(problem: Problem, place: int) -> list[int]:
    """The acquisitions along an axis, counted from the end, that have any weight."""
    size = problem.data.shape[place]
    if problem.weights is None:
        return list(range(size))
    counted = torch.broadcast_to(problem.weights > 0, problem.data.shape)
    return counted.movedim(place, 0).reshape(size, -1).any(1).nonzero().flatten().tolist()


def _require_weights_obeyed(half: Task, whole: Tensor) -> None:
    """Raise where the first steps see samples without weight.

    A linear direct inversion does not know weights, but it adds up what each acquisition gives,
    and those of the other half are 0: what comes out is this half's, on another scale.
    """
    operator = half.problem.operator
    if isinstance(half.solver, Direct) and operator.linear:
        return
    with explained(half.plan.title):
        x0 = first_estimate(half)
        hidden, seen = (_first_steps(half, data, x0) for data in (half.problem.data, whole))
    if float((hidden - seen).abs().max()) > ROUNDING * float(hidden.abs().max()):
        raise ReconstructionError(
            f"{half.plan.title} looks at samples without weight, so that its halves are not "
            "independent: take an iterative solver, such as cg or fista, for the resolution"
        )


def _brightest(half: Task, whole: Tensor, size: int | None) -> tuple[Task, Tensor]:
    """So many elements of a stack, as more may not fit, where a look at the data tells most."""
    if size is None:
        return half, whole
    chunks = [slice(start, start + size) for start in range(0, len(whole), size)]
    chosen = max(chunks, key=lambda each: float(whole[each].abs().sum()))
    return dataclasses.replace(half, problem=part(half.problem, chosen)), whole[chosen]


def _first_steps(task: Task, data: Tensor, x0: Tensor | None) -> Tensor:
    problem = dataclasses.replace(task.problem, data=data).prepare()
    state = task.solver.init(problem, x0)
    for _ in range(1 if task.solver.one_step else 2):
        state, _ = task.solver.step(problem, state)
    return task.solver.estimate(state)
