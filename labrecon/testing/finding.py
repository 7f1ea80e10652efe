"""What a check finds, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["ConformanceError", "Finding", "Outcome", "Report", "Status"]

Status = Literal["passed", "warned", "failed", "skipped"]
_ORDER: tuple[Status, ...] = ("skipped", "passed", "warned", "failed")


class ConformanceError(AssertionError):
    """An operator or instrument does not keep what it promises."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check looked at.

    Attributes:
        status: "passed"; "warned" (worth knowing); "failed"; "skipped" (nothing to look at).
        verdict: what was found, in plain words.
        value: the number behind it.
        tolerance: what it was compared with.
        advice: what to do.
        about: what was looked at, where a check looks at several things.
    """

    status: Status
    verdict: str
    value: float | None = None
    tolerance: float | None = None
    advice: str = ""
    about: str = ""

    def __str__(self) -> str:
        about = f"{self.about}: " if self.about else ""
        number = "" if self.value is None else f" [{self.value:.3g}"
        if number:
            number += "]" if self.tolerance is None else f", tolerance {self.tolerance:.3g}]"
        return f"{about}{self.verdict}{number}"


@dataclass(frozen=True)
class Outcome:
    """A check that was run.

    Attributes:
        check: its name.
        title: what it asks.
        findings: at least one.
        seconds: wall time.
    """

    check: str
    title: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """That of the worst finding."""
        return max((finding.status for finding in self.findings), key=_ORDER.index)

    def require(self) -> None:
        """Raise `ConformanceError` if something failed."""
        failed = [finding for finding in self.findings if finding.status == "failed"]
        if failed:
            told = [f"{self.check}: {f}\n    what to do: {f.advice or '–'}" for f in failed]
            raise ConformanceError("\n".join(told))

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "status": self.status}

    @classmethod
    def read(cls, told: dict[str, Any]) -> Outcome:
        """From what `plain` gave."""
        findings = tuple(Finding(**finding) for finding in told["findings"])
        return cls(told["check"], told["title"], findings, told["seconds"])


@dataclass(frozen=True)
class Report:
    """All checks of one subject."""

    subject: str
    outcomes: tuple[Outcome, ...]
    device: str = "cpu"

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Names of the checks that failed."""
        return [outcome.check for outcome in self.outcomes if outcome.status == "failed"]

    def counts(self) -> dict[str, int]:
        """Checks by status."""
        statuses = [outcome.status for outcome in self.outcomes]
        return {status: statuses.count(status) for status in reversed(_ORDER)}

    def of(self, check: str) -> Outcome:
        """The outcome of the check with a name."""
        return next(outcome for outcome in self.outcomes if outcome.check == check)

    def require(self) -> None:
        """Raise `ConformanceError` with everything that failed."""
        told = list(_failures(self.outcomes))
        if told:
            raise ConformanceError(f"{self.subject}\n" + "\n".join(told))

    def __str__(self) -> str:
        """A line for each finding, and what to do where something is wrong."""
        lines = [f"{self.subject}: {'conforms' if self.passed else 'does not conform'}"]
        for outcome in self.outcomes:
            for finding in outcome.findings:
                lines.append(f"  {finding.status:<8} {outcome.check:<18} {finding}")
                if finding.status in ("failed", "warned") and finding.advice:
                    lines.append(f"{'':>30}→ {finding.advice}")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "subject": self.subject,
            "device": self.device,
            "passed": self.passed,
            "counts": self.counts(),
            "checks": [outcome.plain() for outcome in self.outcomes],
        }


def _failures(outcomes: Iterable[Outcome]) -> Iterable[str]:
    for outcome in outcomes:
        try:
            outcome.require()
        except ConformanceError as error:
            yield str(error)
