"""The classical solver beside a network, with the weight of its prior found on the same objects."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon import posing, stages
from labrecon.errors import LabreconError, ReconstructionError
from labrecon.instrument import Instrument, Scan
from labrecon.learners.self_supervised import misfit
from labrecon.metrics import nrmse
from labrecon.plan import Plan, make_plans
from labrecon.plugins import Host, UnknownNameError
from labrecon.problem import Problem
from labrecon.recipe import PriorTable, Recipe, SolverTable
from labrecon.train.judgement import Judgement
from labrecon.train.recipe import TrainRecipe

__all__ = ["Classical", "classical_plan", "solved", "tuned", "tuned_without_truth"]

Pairs = Sequence[tuple[Problem, Tensor]]
#: Fractions of max|∇D(0)| that are tried first, and the factors by which the best is then moved.
FRACTIONS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FACTORS = (10**0.5, 10**0.25)


@dataclass(frozen=True)
class Classical:
    """What a classical solver makes of problems.

    Attributes:
        title: of solver and prior.
        weight: of the prior, where it has one.
        tried: weight and mean NRMSE on the objects on which it was found.
        estimates: of each problem.
        seconds: for all of them, without the search of the weight.
    """

    title: str
    weight: float | None
    tried: tuple[tuple[float, float], ...]
    estimates: list[Tensor]
    seconds: float


def classical_plan(recipe: TrainRecipe, instrument: Instrument, host: Host) -> Plan:
    """Solver and prior of ``[classical]``, or of the instrument's recipe ``"recon"``.

    Where that has no prior, as a direct inversion, it is FISTA with total variation; a solver of
    ``[classical]`` that takes a prior and is given none has that, too.

    Raises:
        RecipeError: a name or an option that nobody has.
    """
    usual = instrument.recipes().get("recon", {})
    table = recipe.classical
    solver = table.solver or SolverTable.model_validate(dict(usual.get("solver", {})))
    prior = table.prior or PriorTable.model_validate(dict(usual.get("prior", {})))
    takes_prior = table.solver is None or _takes_prior(host, solver.name)
    if table.prior is None and not takes_prior:
        prior = PriorTable()
    elif table.prior is None and prior.name == "zero":
        example = instrument.operator(instrument.example()).domain
        if table.solver is None:
            solver = SolverTable(name="fista", iterations=150, tolerance=1e-4)
        low = instrument.limits[0] == 0.0 and not example.dtype.is_complex
        options = {"ndim": min(2, example.ndim), **({"nonneg": True} if low else {})}
        prior = PriorTable.model_validate({"name": "tv", "relative_weight": 1e-3, **options})
    classical = Recipe(
        seed=recipe.seed,
        prepare=recipe.prepare,
        operator=recipe.operator,
        solver=solver,
        prior=prior,
        calibrate=table.calibrate,
    )
    classical._document = recipe._document
    return make_plans(classical, instrument, host)[0]


def _takes_prior(host: Host, name: str) -> bool:
    try:
        make = host.get("solvers", name)
    except UnknownNameError:
        return False  # `make_plans` says so with its place in the recipe
    return "prior" in inspect.signature(make).parameters


def tuned(plan: Plan, seen: Pairs, unseen: Pairs) -> Classical:
    """Find the prior's weight on seen objects, then reconstruct the unseen ones.

    The weight minimises the mean NRMSE: first over five powers of ten of the largest useful weight,
    then between the neighbours of the best.

    Raises:
        ReconstructionError: the solver can not treat the problems.
    """

    def score(weight: float) -> float:
        made = [solved(plan, problem, weight) for problem, _ in seen]
        return _mean_error(made, [truth for _, truth in seen])

    problems = [problem for problem, _ in seen]
    return _tuned(plan, score, problems, [problem for problem, _ in unseen])


def tuned_without_truth(
    plan: Plan, seen: Sequence[Judgement], unseen: Sequence[Problem]
) -> Classical:
    """The same with the weight that predicts held-out samples of the seen scans best.

    Raises:
        ReconstructionError: the solver can not treat the problems, or nothing can be held out.
    """
    parts = [(one.problem, one.part) for one in seen if one.part is not None]
    if not parts:
        raise ReconstructionError("the scans have too few samples to find the weight by some")

    def score(weight: float) -> float:
        values = []
        for problem, part in parts:
            values += misfit(problem, solved(plan, part.problem, weight), part.held).tolist()
        mean = math.fsum(values) / len(values)
        return mean if math.isfinite(mean) else math.inf

    return _tuned(plan, score, [part.problem for _, part in parts], unseen)


def _tuned(
    plan: Plan,
    judge: Callable[[float], float],
    seen: Sequence[Problem],
    unseen: Sequence[Problem],
) -> Classical:
    weighted = plan.prior.weight is not None or plan.prior.relative_weight is not None
    scores: dict[float, float] = {}

    def score(weight: float) -> float:
        if weight not in scores:
            try:
                scores[weight] = judge(weight)
            except LabreconError:
                scores[weight] = math.inf
        return scores[weight]

    weight: float | None = None
    if weighted:
        largest = max(_largest_gradient(problem) for problem in seen)
        weight = min((share * largest for share in FRACTIONS), key=score)
        for factor in FACTORS:
            weight = min((weight, weight * factor, weight / factor), key=score)
        if not math.isfinite(scores[weight]):
            # Once more, for the error that says why.
            solved(plan, seen[0], weight)
    begin = time.perf_counter()
    estimates = [solved(plan, problem, weight) for problem in unseen]
    seconds = time.perf_counter() - begin
    return Classical(plan.title, weight, tuple(sorted(scores.items())), estimates, seconds)


def solved(plan: Plan, problem: Problem, weight: float | None) -> Tensor:
    """What the plan's solver makes of a problem with a weight of its prior."""
    with torch.no_grad():
        solver = plan.build(weight, problem).to(problem.data.device)
        # `run` looks at neither data nor geometry of the scan.
        scan = Scan(problem.data, None)  # type: ignore[arg-type]
        task = posing.calibrated(posing.Task(plan, scan, problem, solver, weight))
        return stages.run(task).x


def _mean_error(estimates: list[Tensor], truths: list[Tensor]) -> float:
    pairs = zip(estimates, truths, strict=True)
    errors = [nrmse(x, t) for made, truth in pairs for x, t in _elements(made, truth)]
    mean = math.fsum(errors) / len(errors)
    return mean if math.isfinite(mean) else math.inf


def _elements(made: Tensor, truth: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(made, truth, strict=True)) if made.ndim > 1 else [(made, truth)]


def _largest_gradient(problem: Problem) -> float:
    zero = problem.operator.domain.zeros(*problem.batch, device=problem.data.device)
    with torch.no_grad():
        return float(problem.gradient(zero).abs().max())
