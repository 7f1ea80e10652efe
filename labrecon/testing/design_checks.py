"""Checks of feasible sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.design import FeasibleSet, InfeasibleError
from labrecon.testing.bench import Bench, check, found_any
from labrecon.testing.finding import Finding


@check("feasible sets")
def feasible_sets(bench: Bench) -> Iterator[Finding]:
    """Projections are the nearest feasible values; hardened values can be loaded."""
    yield from found_any(
        _each(bench), Finding("skipped", "no parameter has a feasible set: nothing is designed")
    )


def _each(bench: Bench) -> Iterator[Finding]:
    operator = bench.operator
    sets = {**operator.designs, **operator.nuisances}
    for name, (kind, value) in bench.learnable().items():
        feasible = sets[name]
        if feasible is not None:
            yield check_set(feasible, value, bench.generator(60), f"{kind} {name}")


def check_set(
    feasible: FeasibleSet, value: Tensor, generator: torch.Generator, about: str
) -> Finding:
    """What is wrong with a feasible set, judged around a value of its parameter."""
    set_name = type(feasible).__name__
    scale = float(value.double().abs().max())
    if scale == 0:
        with contextlib.suppress(InfeasibleError, RuntimeError, TypeError, IndexError):
            scale = float(feasible.project(torch.ones_like(value)).double().abs().max())
    scale = scale or 1.0
    tolerance = scale * (1e-5 if value.dtype == torch.float32 else 1e-7)

    def failed(verdict: str, number: float | None, advice: str) -> Finding:
        return Finding("failed", f"{set_name}: {verdict}", number, tolerance, advice, about)

    try:
        broken = feasible.violations(value)
        samples = [
            value + spread * scale * torch.randn(value.shape, generator=generator).to(value)
            for spread in (0.01, 0.1, 0.5, 1.0, 3.0)
        ]
        projected = [feasible.project(v) for v in samples]
    except (InfeasibleError, RuntimeError, TypeError, IndexError) as error:
        return failed(f"{type(error).__name__}: {error}", None,
                      "the set must take values of the parameter's shape")  # fmt: skip
    if broken and not feasible.contains(value, tolerance):
        told = ", ".join(f"{rule} {by}" for rule, by in broken.items())
        return failed(f"the initial value is not feasible: {told}", None,
                      "start from feasible.project(value), or mend the limits")  # fmt: skip
    for p in projected:
        if not feasible.contains(p, tolerance):
            told = ", ".join(f"{rule} {by}" for rule, by in feasible.violations(p).items())
            return failed(f"a projected value is not in the set: {told}", None,
                          "project must reach the set; see violations")  # fmt: skip
        again = float((feasible.project(p) - p).abs().max())
        if again > tolerance:
            return failed("projecting twice moves the value again", again,
                          "project must leave feasible values alone")  # fmt: skip
        hard = feasible.harden(p)
        if not feasible.contains(hard, tolerance):
            return failed("a hardened value is not in the set", None,
                          "harden within the relaxed set")  # fmt: skip
        again = float((feasible.harden(hard) - hard).abs().max())
        if again > tolerance:
            return failed("hardening twice moves the value again", again,
                          "harden must leave realisable values alone")  # fmt: skip
    worst = 0.0
    for v, p in zip(samples, projected, strict=True):
        distance = float(torch.linalg.vector_norm((v - p).double()))
        for candidate in _candidates(feasible, p, projected, scale, generator):
            other = float(torch.linalg.vector_norm((v - candidate).double()))
            worst = max(worst, (distance - other) / max(distance, tolerance))
    if worst > 1e-3:
        return failed(
            "a feasible value is nearer than the projected one",
            worst,
            "project must give the nearest feasible value (Euclidean), or optimisers drift; "
            "alternating projections between two sets do not",
        )
    told = f"{set_name}: nearest, idempotent, hardens within the set"
    return Finding("passed", told, max(worst, 0.0), 1e-3, about=about)


def _candidates(
    feasible: FeasibleSet,
    p: Tensor,
    projected: list[Tensor],
    scale: float,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Feasible values: the other projections, and some close to this one."""
    yield from projected
    for spread in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(4):
            step = torch.randn(p.shape, generator=generator).to(p)
            yield feasible.project(p + spread * scale * step)
