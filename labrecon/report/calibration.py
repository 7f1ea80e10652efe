"""The rows and plots of a report on nuisances that were estimated beside the object."""

from __future__ import annotations

from labrecon.calibration import Calibration
from labrecon.report import plots

__all__ = ["COLUMNS", "calibration_note", "calibration_plots", "calibration_rows"]

COLUMNS = ("nuisance", "before", "estimate", "standard error", "unit")
#: Lines of one plot; more are not told apart.
LINES = 6


def calibration_note(found: Calibration) -> str:
    """How the estimates were found, and what their errors stand for."""
    how = {
        "projection": "Estimated jointly with the object by variable projection, before the solve",
        "alternating": "Estimated between the steps of the solve",
    }[found.method]
    some = "" if found.elements is None else " by {} of {} elements".format(*found.elements)
    level = (
        "" if found.level_known else " The noise states no level: it is that of the residual here."
    )
    if found.inflation > 1:
        level = f" They are {found.inflation:.2g} times what the noise makes, for the misfit."
    return (
        f"{how}{some}; {found.statement}. χ² per degree of freedom of the best object of a "
        f"quadratic prior, which is not the image: {found.chi2_before:.3g} with the values before, "
        f"{found.chi2:.3g} with the estimates. Errors are one standard deviation, the object "
        f"unknown.{level}"
    )


def calibration_rows(found: Calibration) -> list[tuple[str, ...]]:
    """A row for each number, then for each pair that is strongly correlated."""
    rows: list[tuple[str, ...]] = [
        (
            e.label,
            f"{e.start:.5g}",
            e.shown if e.known else "–",
            f"± {e.error:.2g}" if e.error is not None else e.reason,
            e.unit,
        )
        for e in found.estimates
    ]
    labels = [e.label for e in found.estimates]
    for i, row in enumerate(found.correlation):
        for j, value in enumerate(row[:i]):
            if value is not None and abs(value) > 0.5:
                told = f"{labels[j]} and {labels[i]}"
                rows.append((told, "", f"correlation {value:+.2f}", "", ""))
    return rows


def calibration_plots(found: Calibration) -> list[tuple[str, str]]:
    """The estimates by step, in standard errors from where they ended where those are known."""
    if len(found.history) < 2:
        return []
    known = [e for e in found.estimates if e.error][:LINES]
    steps = [one["step"] for one in found.history]
    if len(known) == 1:
        (e,) = known
        series = {e.label: (steps, [one[e.label] for one in found.history])}
        return [("", plots.lines(series, "step", f"{e.label} {e.unit}".rstrip()))]
    series = {
        e.label: (steps, [(one[e.label] - e.value) / (e.error or 1.0) for one in found.history])
        for e in known
    }
    label = "from the estimate, in standard errors"
    return [("", plots.lines(series, "step", label))] if series else []
