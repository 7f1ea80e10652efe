"""The first check: is there anything to check?"""

from __future__ import annotations

from collections.abc import Iterator

from labrecon.operator import Operator
from labrecon.testing.bench import Bench, check
from labrecon.testing.finding import Finding


@check("build")
def build(bench: Bench) -> Iterator[Finding]:
    """The operator can be built from its geometry."""
    operator = bench.operator
    if not isinstance(operator, Operator):
        yield Finding(
            "failed",
            f"this is a {type(operator).__name__}, not an operator",
            advice="return an instance of labrecon.Operator; labrecon.bridge makes one (external, "
            "from_scipy, from_sigpy, from_pylops, from_deepinv)",
        )
        return
    kind = "linear" if operator.linear else "nonlinear"
    told = [f"{operator.name}, {kind}"]
    if operator.designs:
        told.append(f"designs {', '.join(operator.designs)}")
    if operator.nuisances:
        told.append(f"nuisances {', '.join(operator.nuisances)}")
    yield Finding("passed", "; ".join(told))
