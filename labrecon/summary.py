"""What is told of a result in numbers: for the summary, the report and the provenance alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrecon.io.plain import plain
from labrecon.plugins import Host
from labrecon.report.data import ReportData
from labrecon.solvers.chains import ChainState
from labrecon.stages import Outcome

__all__ = ["find", "summarize"]


def summarize(outcomes: list[Outcome], host: Host, warnings: list[str]) -> dict[str, Any]:
    """Status of the main reconstruction, and the numbers of each.

    A metric that fails is added to ``warnings``.
    """
    told = [plain(_numbers(outcome, host, warnings)) for outcome in outcomes]
    main = told[0]
    return {
        "status": main["status"],
        "iterations": main["iterations"],
        "chi2": main["quality"]["chi2"],
        **_calibrated(outcomes[0]),
        "reconstructions": told,
    }


def _calibrated(main: Outcome) -> dict[str, list[str]]:
    """The estimates in words, and how they were found; nothing where there are none."""
    if main.calibration is None:
        return {}
    return {"calibration": [*map(str, main.calibration.estimates), main.calibration.statement]}


def find(data: ReportData, host: Host, warnings: list[str]) -> dict[str, float | int | str]:
    """What plugins find in a result: numbers and words by name.

    A plugin that fails, or finds what another has found already, is added to ``warnings``.
    """
    found: dict[str, float | int | str] = {}
    for name in host.names("findings"):
        try:
            told = host.get("findings", name)(data)
            if not isinstance(told, Mapping):
                raise TypeError(f"it returned a {type(told).__name__}, expected a mapping")
            values = plain(told)
        except Exception as error:
            warnings.append(f"the findings {name!r} failed: {type(error).__name__}: {error}")
            continue
        for key, value in values.items():
            if not isinstance(value, int | float | str):
                warnings.append(
                    f"the finding {key!r} of {name!r} is {value!r}, expected a number or text"
                )
            elif key in found:
                warnings.append(f"the finding {key!r} of {name!r} is there already, and left out")
            else:
                found[key] = value
    return found


def _numbers(outcome: Outcome, host: Host, warnings: list[str]) -> dict[str, Any]:
    solution, plan = outcome.solution, outcome.task.plan
    return {
        "title": plan.title,
        "solver": plan.solver.name,
        "prior": plan.prior.name,
        "prior_weight": outcome.task.weight,
        "status": solution.status,
        "iterations": solution.state.k,
        **_kind(outcome),
        "seconds": solution.seconds,
        "data_shape": list(outcome.task.problem.data.shape),
        "shape": list(solution.x.shape),
        "quality": outcome.quality.numbers(),
        **({} if outcome.intervals is None else {"uncertainty": outcome.intervals.numbers()}),
        **({} if outcome.calibration is None else {"calibration": outcome.calibration.numbers()}),
        "metrics": _metrics(outcome, host, warnings),
    }


def _kind(outcome: Outcome) -> dict[str, Any]:
    """What its iterations are, if not steps towards an end."""
    state = outcome.solution.state
    if isinstance(state, ChainState):
        return {"samples": state.kept * len(state.x)}
    return {"one_step": True} if outcome.task.solver.one_step else {}


def _metrics(outcome: Outcome, host: Host, warnings: list[str]) -> dict[str, float]:
    truth, x = outcome.task.scan.truth, outcome.solution.x
    if truth is None or truth.shape != x.shape:
        return {}
    values = {}
    for name in host.names("metrics"):
        try:
            values[name] = float(host.get("metrics", name)(x.cpu(), truth.cpu()))
        except Exception as error:
            warnings.append(f"the metric {name!r} failed: {error}")
    return values
