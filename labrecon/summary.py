"""What is told of a result in numbers: for the summary, the report and the provenance alike."""

from __future__ import annotations

from typing import Any

from labrecon.io.plain import plain
from labrecon.plugins import Host
from labrecon.stages import Outcome

__all__ = ["summarize"]


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
        "reconstructions": told,
    }


def _numbers(outcome: Outcome, host: Host, warnings: list[str]) -> dict[str, Any]:
    solution, plan = outcome.solution, outcome.task.plan
    return {
        "title": plan.title,
        "solver": plan.solver.name,
        "prior": plan.prior.name,
        "prior_weight": outcome.task.weight,
        "status": solution.status,
        "iterations": solution.state.k,
        "seconds": solution.seconds,
        "data_shape": list(outcome.task.problem.data.shape),
        "shape": list(solution.x.shape),
        "quality": outcome.quality.numbers(),
        "metrics": _metrics(outcome, host, warnings),
    }


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
