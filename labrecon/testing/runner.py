"""Running checks: a slow or broken one never hides the others."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labrecon.testing.bench import Bench, BuildError, Check
from labrecon.testing.finding import Finding, Outcome
from labrecon.testing.process_state import kept
from labrecon.testing.suite import SUITE

__all__ = ["BoundCheck", "run_all", "run_one", "select", "stopped"]

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
    return [
        each
        for each in known.values()
        if (instrument or not each.instrument)
        and (not only or each.name in only)
        and each.name not in skip
    ]


def run_one(check: Check, bench: Bench, timeout: float | None = SLOW) -> Outcome:
    """The outcome of a check; what it raises, and that it takes too long, are findings.

    It runs in a thread of its own. One that takes too long is left behind: it can not be stopped.
    """
    findings: list[Finding] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with kept():
                findings.extend(check.body(bench))
        except BaseException as error:
            raised.append(error)

    begin = time.perf_counter()
    worker = threading.Thread(target=work, daemon=True, name=f"check {check.name}")
    worker.start()
    worker.join(timeout)
    seconds = time.perf_counter() - begin
    if worker.is_alive():
        told = [*findings, stopped(f"takes more than {timeout:g} s")]
    elif raised and isinstance(raised[0], BuildError) and check.name != "build":
        told = [Finding("skipped", "the operator can not be built, see the check build")]
    elif raised:
        told = [*findings, _broken(raised[0])]
    else:
        told = findings or [Finding("skipped", "nothing to look at")]
    return Outcome(check.name, check.title, tuple(told), round(seconds, 3))


def stopped(verdict: str) -> Finding:
    """The finding of a check that did not come to an end."""
    return Finding(
        "failed",
        verdict,
        advice="a hanging or crashing library; make example() smaller if it is only slow, or "
        "allow more with --timeout",
    )


def _broken(error: BaseException) -> Finding:
    error = error.__cause__ if isinstance(error, BuildError) and error.__cause__ else error
    trace = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in trace if "labrecon/testing" not in frame.filename]
    frame = (outside or trace)[-1]
    return Finding(
        "failed",
        f"raised {type(error).__name__}: {error}",
        advice=f"see {frame.filename}:{frame.lineno}, in {frame.name}",
    )


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
