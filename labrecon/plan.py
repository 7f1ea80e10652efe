"""A recipe's names turned into things, all of them checked before any long work."""

from __future__ import annotations

import inspect
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.calibration.naming import why_unknown
from labrecon.errors import RecipeError
from labrecon.instrument import Instrument, Scan
from labrecon.io.model import SavedModel
from labrecon.plugins import ConflictError, Host, UnknownNameError, resolve
from labrecon.prior import Prior
from labrecon.problem import Problem
from labrecon.recipe import CalibrateTable, Compare, PriorTable, Recipe, SolverTable, nearest
from labrecon.recipe_options import check_options, option_names, require_options, seeded
from labrecon.solver import Solver
from labrecon.solvers.alternating import Alternating
from labrecon.solvers.trained import Trained, with_unit_noise
from labrecon.tomlfile import Key

__all__ = [
    "Plan",
    "Writer",
    "find_instrument",
    "find_subject",
    "get",
    "make_plans",
    "make_writer",
]

Writer = Callable[[Path, Tensor, Mapping[str, Any]], Path]


@dataclass(frozen=True)
class Plan:
    """One reconstruction, ready to run on a scan.

    Attributes:
        title: what the report calls it.
        steps: name, function and options of each preparation step.
        operator: options of `Instrument.operator`.
        solver: limits of the solve.
        prior: weight of the prior.
        build: makes the solver, given the prior's weight and, where it is trained, the problem.
        model: the trained network that takes the place of solver and prior.
        calibrate: nuisances that are estimated.
    """

    title: str
    steps: tuple[tuple[str, Callable[..., Scan], dict[str, Any]], ...]
    operator: dict[str, Any]
    solver: SolverTable
    prior: PriorTable
    build: Callable[[float | None, Problem | None], Solver]
    model: SavedModel | None = None
    calibrate: CalibrateTable = field(default_factory=CalibrateTable)


def find_instrument(name: str, host: Host) -> Instrument:
    """The instrument registered under a name, or the one at a dotted path ``"module:Class"``.

    A module that is not installed is looked for in the working directory, too.

    Raises:
        RecipeError: no plugin has it, or the package it needs is not installed.
    """
    found = find_subject(name, host)
    if not isinstance(found, Instrument):
        raise RecipeError(
            f"{name} is a {type(found).__name__}, expected a subclass of labrecon.Instrument"
        )
    return found


def find_subject(name: str, host: Host) -> Any:
    """Like `find_instrument`, for a path that may lead to an operator or to something else."""
    module, colon, _ = name.partition(":")
    if not colon or module in host.reports:
        kind = get(host, "instruments", name, "the command line")
    else:
        kind = _from_path(name)
    return kind() if isinstance(kind, type) and issubclass(kind, Instrument) else kind


def _from_path(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return resolve(name)
    except Exception as error:
        # A module of the lab's: it can raise whatever it likes.
        frames = traceback.extract_tb(error.__traceback__)
        at = f" at {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""
        raise RecipeError(
            f"{name} can not be loaded ({type(error).__name__}: {error}{at}); expected "
            f"'module:Class' of a module that is installed, or in {here}"
        ) from error
    finally:
        sys.path.remove(here)


def make_plans(
    recipe: Recipe, instrument: Instrument, host: Host, model: SavedModel | None = None
) -> list[Plan]:
    """The main reconstruction and those to compare with it.

    Args:
        recipe: what to do.
        instrument: whose steps and operator it names.
        host: where names are looked up.
        model: a trained network in the place of the main solver and prior.

    Raises:
        RecipeError: a step, solver or prior that nobody offers, an option that it does not take,
            a value that it refuses, or a nuisance that no operator of the instrument has.
    """
    main = _plan(recipe, None, 0, instrument, host)
    _require_nuisances(recipe, instrument)
    if model is not None:
        main = _with_model(main, model, host)
    return [
        main,
        *(_plan(recipe, other, i, instrument, host) for i, other in enumerate(recipe.compare)),
    ]


def _require_nuisances(recipe: Recipe, instrument: Instrument) -> None:
    table = recipe.calibrate
    for key, names in (("nuisances", table.nuisances), ("bounds", table.bounds)):
        for name in names:
            why = why_unknown(instrument, name, recipe.operator)
            if why:
                raise RecipeError(f"{recipe.where('calibrate', key)}: {why}")


def _with_model(plan: Plan, model: SavedModel, host: Host) -> Plan:
    def build(weight: float | None, problem: Problem | None = None) -> Solver:
        assert problem is not None
        term = model.card.data_term
        posed = with_unit_noise(problem) if term == "unit" else problem
        trained = Trained(model.build(posed, host), data_term=term)
        return _calibrating(trained, plan.calibrate)

    return Plan(
        f"{model.card.network} (trained)",
        plan.steps,
        plan.operator,
        SolverTable(name="trained", objective=False),
        PriorTable(),
        build,
        model,
        plan.calibrate,
    )


def _calibrating(solver: Solver, table: CalibrateTable) -> Solver:
    """The solver, alternating with steps in the nuisances where that is the method."""
    if not table.nuisances or table.method != "alternating":
        return solver
    return Alternating(
        solver,
        nuisances=table.nuisances,
        after=table.after,
        every=table.every,
        bounds=table.bounds,
    )


def make_writer(recipe: Recipe, host: Host) -> Writer:
    """The volume writer with its options."""
    table = recipe.output
    where = recipe.where("output", "format")
    write = get(host, "writers", table.format, where)
    check_options(write, table.options, ("path", "volume", "info"), recipe, ("output",))

    if table.options:
        _try_writer(write, table.options, where)

    def writer(path: Path, volume: Tensor, info: Mapping[str, Any]) -> Path:
        written: Path = write(path, volume, info, **table.options)
        return written

    return writer


def _try_writer(write: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Write eight samples: a wrong value should be told now, not after the solve."""
    info: dict[str, Any] = {
        "title": "",
        "axes": ("z", "y", "x"),
        "voxel_size": None,
        "unit": "",
        "provenance": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            write(Path(folder) / "volume", torch.zeros(2, 2, 2), info, **options)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{where}: {dict(options)} can not be written: {error}") from error


def _plan(
    recipe: Recipe, other: Compare | None, index: int, instrument: Instrument, host: Host
) -> Plan:
    at: Key = () if other is None else ("compare", index)
    steps = [
        _step(recipe, (*at, "prepare", i), table, instrument)
        for i, table in enumerate(recipe.prepare if other is None else other.prepare)
        if not table.skip
    ]
    options = recipe.operator
    solver, prior = recipe.solver, recipe.prior
    solver_at: Key = ("solver",)
    prior_at: Key = ("prior",)
    inherited = False
    if other is not None:
        options = recipe.operator if other.operator is None else other.operator
        if other.solver is not None:
            solver, solver_at = other.solver, (*at, "solver")
        if other.prior is not None:
            prior, prior_at = other.prior, (*at, "prior")
        else:
            inherited = True
    check_options(instrument.operator, options, ("geometry",), recipe, (*at, "operator"))
    make = get(host, "solvers", solver.name, recipe.where(*solver_at, "name"))
    takes_prior = "prior" in inspect.signature(make).parameters
    if not takes_prior and prior.name != "zero":
        if not inherited:
            raise RecipeError(
                f"{recipe.where(*prior_at)}: the solver {solver.name!r} uses no prior; take "
                f"another solver, or prior.name = 'zero' instead of {prior.name!r}"
            )
        prior = PriorTable()
    if "nuisances" in solver.options and "nuisances" not in (option_names(make) or ()):
        raise RecipeError(
            f"{recipe.where(*solver_at, 'nuisances')}: [solver] has no option 'nuisances'; they "
            "are estimated by the table [calibrate], with any solver"
        )
    check_options(make, solver.options, ("prior",), recipe, solver_at)
    make_prior = get(host, "priors", prior.name, recipe.where(*prior_at, "name"))
    _check_prior(make_prior, prior, recipe, prior_at)

    solver_options = seeded(make, solver.options, recipe)
    prior_options = seeded(make_prior, prior.options, recipe)
    weighted = prior.weight is not None or prior.relative_weight is not None
    require_options(make, solver.name, {*solver_options, "prior"}, recipe, solver_at)
    given = {*prior_options, "weight"} if weighted else prior_options
    require_options(make_prior, prior.name, given, recipe, prior_at)

    def build(weight: float | None, problem: Problem | None = None) -> Solver:
        given = {} if weight is None else {"weight": weight}
        known: Prior = make_prior(**prior_options, **given)
        built: Solver = make(**solver_options, **({"prior": known} if takes_prior else {}))
        return _calibrating(built, recipe.calibrate)

    # A value that a constructor refuses should be told now, not after the data are prepared.
    weight = 1.0 if prior.relative_weight is not None else prior.weight
    where, title = recipe.where(*prior_at), prior.name
    try:
        make_prior(**prior_options, **({} if weight is None else {"weight": weight}))
        where, title = recipe.where(*solver_at), f"{solver.name} with {prior.name}"
        build(weight, None)
    except (TypeError, ValueError) as error:
        told = str(error).removeprefix(f"{getattr(make_prior, '__name__', '')}: ")
        raise RecipeError(f"{where}: {title}: {told}") from error
    title = other.title if other else _title(solver, prior)
    return Plan(
        title,
        tuple(steps),
        dict(options),
        solver,
        prior,
        build,
        calibrate=recipe.calibrate,
    )


def _title(solver: SolverTable, prior: PriorTable) -> str:
    known = "" if prior.name == "zero" else f" with {prior.name.upper()}"
    return f"{solver.name.upper() if len(solver.name) < 6 else solver.name}{known}"


def _step(
    recipe: Recipe, at: Key, table: Any, instrument: Instrument
) -> tuple[str, Callable[..., Scan], dict[str, Any]]:
    if table.step not in instrument.steps:
        raise RecipeError(
            f"{recipe.where(*at, 'step')}: {instrument.name} has no step {table.step!r}"
            f"{nearest(table.step, instrument.steps)}; it has "
            f"{', '.join(instrument.steps) or 'none'}"
        )
    function: Callable[..., Scan] = resolve(instrument.steps[table.step])
    check_options(function, table.options, ("scan",), recipe, at)
    return table.step, function, seeded(function, table.options, recipe)


def _check_prior(make: Callable[..., Any], table: PriorTable, recipe: Recipe, at: Key) -> None:
    names = option_names(make)
    weighted = table.weight is not None or table.relative_weight is not None
    if weighted and names is not None and "weight" not in names:
        key = "weight" if table.weight is not None else "relative_weight"
        raise RecipeError(f"{recipe.where(*at, key)}: the prior {table.name!r} has no weight")
    given = ("weight",) if weighted else ()
    check_options(make, table.options, given, recipe, at)


def get(host: Host, kind: str, name: str, where: str) -> Any:
    """What is registered under a name, or a `RecipeError` that says ``where`` it was asked for."""
    try:
        return host.get(kind, name)
    except (UnknownNameError, ConflictError) as error:
        raise RecipeError(f"{where}: {error}") from error
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{where}: the {kind[:-1]} {name!r} needs a package that is not installed ({error}); "
            "`labrecon plugins` shows which plugin it comes from"
        ) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        raise RecipeError(
            f"{where}: the {kind[:-1]} {name!r} can not be loaded: {type(error).__name__}: {error} "
            f"(at {frames[-1].filename}:{frames[-1].lineno})"
        ) from error
