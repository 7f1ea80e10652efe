"""Running checks: a slow or broken one never hides the others."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labrecon.testing.bench import Bench, BuildError, Check
from labrecon.testing.finding import Finding, Outcome
from labrecon.testing.process_state import kept
from labrecon.testing.suite import SUITE

__all__ = ["BoundCheck", "run_all", "run_one", "select", "where"]

SLOW = 120.0


def select(*, instrument: bool, only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Check]:
    """The checks that apply, without those to skip.

    Raises:
        ValueError: a name that no check has.
    """
    known = {each.name: each for each in SUITE}
    only, skip = list(only), list(skip)
    for name in (*only, *skip):
        if name not in known:
            raise ValueError(f"no check is called {name!r}; there are {', '.join(known)}")
    unfit = [name for name in only if known[name].instrument and not instrument]
    if unfit:
        raise ValueError(f"the check {unfit[0]!r} is one of instruments, and this is an operator")
    return [
        each
        for each in known.values()
        # Without an operator that can be built nothing else means anything.
        if each.name == "build"
        or (
            (instrument or not each.instrument)
            and (not only or each.name in only)
            and each.name not in skip
        )
    ]


def run_one(check: Check, bench: Bench, timeout: float | None = SLOW) -> Outcome:
    """The outcome of a check; what it raises, and that it takes too long, are findings.

    It runs in a thread of its own. One that takes too long is left behind: it can not be stopped.
    """
    findings: list[Finding] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            findings.extend(check.body(bench))
        except BaseException as error:
            raised.append(error)

    begin = time.perf_counter()
    # Here and not in the thread: one that is left behind must not put things back later.
    with kept():
        worker = threading.Thread(target=work, daemon=True, name=f"check {check.name}")
        worker.start()
        worker.join(timeout)
    seconds = time.perf_counter() - begin
    if worker.is_alive():
        told = [
            *findings,
            Finding(
                "failed",
                f"takes more than {timeout:g} s",
                advice="make example() smaller, or allow more time; a hanging library stays behind",
            ),
        ]
    elif raised and isinstance(raised[0], BuildError) and check.name != "build":
        told = [Finding("skipped", "the operator can not be built, see the check build")]
    elif raised:
        told = [*findings, _broken(raised[0])]
    else:
        told = findings or [Finding("skipped", "nothing to look at")]
    return Outcome(check.name, check.title, tuple(told), round(seconds, 3))


def _broken(error: BaseException) -> Finding:
    error = error.__cause__ if isinstance(error, BuildError) and error.__cause__ else error
    return Finding(
        "failed",
        f"raised {type(error).__name__}: {error}",
        advice=f"see {where(error)}",
    )


def where(error: BaseException) -> str:
    """The innermost place in code that is neither labrecon's nor an installed package's."""
    trace: list[traceback.FrameSummary] = []
    link: BaseException | None = error
    while link is not None:
        trace += traceback.extract_tb(link.__traceback__)
        link = link.__cause__
    own = Path(__file__).parents[1]
    foreign = [
        frame
        for frame in trace
        if "site-packages" not in frame.filename
        and not Path(frame.filename).is_relative_to(own)
        and f"lib{os.sep}python" not in frame.filename
    ]
    frame = (foreign or trace)[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"


def run_all(checks: Iterable[Check], bench: Bench, timeout: float = SLOW) -> Iterator[Outcome]:
    """The outcomes, one after the other."""
    for each in checks:
        yield run_one(each, bench, timeout)


@dataclass(frozen=True)
class BoundCheck:
    """A check of one subject, to be called by pytest."""

    check: Check
    bench: Bench
    timeout: float = SLOW

    def __str__(self) -> str:
        return self.check.name

    def __call__(self) -> Outcome:
        """Run it.

        Raises:
            ConformanceError: it failed; the message says what to do.
        """
        outcome = run_one(self.check, self.bench, self.timeout)
        outcome.require()
        return outcome
