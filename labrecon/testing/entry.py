"""What a lab's tests call: all checks of an operator or an instrument, or each on its own."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Instrument
from labrecon.operator import Operator
from labrecon.testing.bench import Bench
from labrecon.testing.finding import Report
from labrecon.testing.runner import SLOW, BoundCheck, run_all, select

__all__ = ["check_instrument", "check_operator", "checks"]

Points = Callable[[int, torch.Generator], Tensor]
Subject = Instrument | Operator | Callable[[], Operator]


def checks(
    subject: Subject,
    *,
    geometry: Any = None,
    device: torch.device | str = "cpu",
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    timeout: float = SLOW,
    scan: Path | None = None,
    seed: int = 0,
    calls: int = 200,
    points: Points | None = None,
    spawn: bool = False,
) -> list[BoundCheck]:
    """One callable per check, to be given to ``pytest.mark.parametrize`` with ``ids=str``.

    Args:
        subject: an instrument, an operator, or a function that builds one.
        geometry: of the instrument; by default ``example()``.
        device: where to compute.
        only: names of the checks to run; by default all that apply.
        skip: names of checks to leave out.
        timeout: seconds per check.
        scan: a measured file for the instrument's readers.
        seed: of all probes.
        calls: of the operator, when looking for what piles up in memory.
        points: ``points(n, generator)`` gives inputs of an operator that is not defined for white
            noise; an instrument's sample objects serve otherwise.
        spawn: try pickling in another process, too, which takes some seconds.

    Raises:
        ValueError: a name that no check has.
    """
    bench = make_bench(
        subject,
        geometry=geometry,
        device=device,
        scan=scan,
        seed=seed,
        calls=calls,
        points=points,
        spawn=spawn,
    )
    chosen = select(instrument=bench.instrument is not None, only=only, skip=skip)
    return [BoundCheck(each, bench, timeout) for each in chosen]


def make_bench(
    subject: Subject,
    *,
    geometry: Any = None,
    device: torch.device | str = "cpu",
    scan: Path | None = None,
    seed: int = 0,
    calls: int = 200,
    points: Points | None = None,
    spawn: bool = False,
) -> Bench:
    """The bench for a subject."""
    shared: dict[str, Any] = {
        "device": torch.device(device),
        "seed": seed,
        "calls": calls,
        "points": points,
        "spawn": spawn,
    }
    builds = isinstance(subject, type | functools.partial) or inspect.isroutine(subject)
    if not builds and not isinstance(subject, Instrument | Operator):
        raise ValueError(
            f"this is a {type(subject).__name__}: give an instrument, an operator, or a function "
            "that builds one; labrecon.bridge makes operators (external, from_scipy, from_sigpy, …)"
        )
    if isinstance(subject, Instrument):
        instrument, known = subject, subject.example() if geometry is None else geometry
        return Bench(lambda: instrument.operator(known), instrument, known, scan=scan, **shared)
    if isinstance(subject, Operator):
        operator = subject
        return Bench(lambda: copy.deepcopy(operator), **shared)
    return Bench(subject, **shared)


def check_operator(operator: Operator | Callable[[], Operator], **options: Any) -> Report:
    """Run all checks of an operator.

    Args:
        operator: an operator, or a function that builds one (which sees more mistakes).
        **options: as of `checks`; ``raises=False`` returns a report with failures instead of
            raising.

    Raises:
        ConformanceError: a check failed.

    Example:
        >>> from labrecon.operators import FiniteDifference
        >>> from labrecon.space import Space
        >>> check_operator(FiniteDifference(Space((8, 8)))).passed
        True
    """
    known = operator.name if isinstance(operator, Operator) else getattr(operator, "__name__", "")
    return _run(operator, f"operator {known}".strip(), **options)


def check_instrument(instrument: Instrument, **options: Any) -> Report:
    """Run all checks of an instrument: those of its operator, its noise, objects and files.

    Args:
        instrument: the instrument.
        **options: as of `checks`; ``raises=False`` returns a report with failures instead of
            raising.

    Raises:
        ConformanceError: a check failed.
    """
    return _run(instrument, f"instrument {instrument.name}", **options)


def _run(
    subject: Subject,
    title: str,
    *,
    raises: bool = True,
    device: torch.device | str = "cpu",
    timeout: float = SLOW,
    **options: Any,
) -> Report:
    bound = checks(subject, device=device, timeout=timeout, **options)
    chosen, bench = [each.check for each in bound], bound[0].bench
    report = Report(title, tuple(run_all(chosen, bench, timeout)), str(device))
    if raises:
        report.require()
    return report
