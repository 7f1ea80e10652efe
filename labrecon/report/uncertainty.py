"""The section of a report on error bars: their width, what they cover, and where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labrecon.report import plots
from labrecon.report.data import ReportData
from labrecon.report.pictures import picture, planes, window_of
from labrecon.report.sections import Section

if TYPE_CHECKING:
    from labrecon.uncertainty.card import IntervalsCard
    from labrecon.uncertainty.intervals import Intervals

__all__ = ["uncertainty_section"]


def uncertainty_section(data: ReportData) -> Section | None:
    """The half-widths beside the reconstruction; None where no error bars were asked for."""
    found = data.main.intervals
    if found is None:
        return None
    title = "Uncertainty"
    x, width = data.main.solution.x, found.half_width
    drawn: list[tuple[str, str]] = []
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    if found.card is not None:
        drawn = [("calibration", _calibration(found.card))]
        columns = ("samples", "covered", f"mean half-width, {data.unit}".removesuffix(", "))
        rows = _rows(found, found.card)
    if x.ndim < 2:
        lines = {"half-width": width.numpy()}
        drawn.insert(0, ("half-width", plots.profile(lines, data.axes[0], data.unit)))
        return Section(title, _note(found), plots=drawn, columns=columns, rows=rows)
    upward = data.instrument.upward
    images = planes(x, data.axes, data.voxel_size, upward)
    widths = planes(width, data.axes, data.voxel_size, upward)
    window = window_of([image for _, image, _ in images])
    scale = (0.0, window_of([image for _, image, _ in widths])[1])
    shown = []
    for (plane, image, pixel), (_, bars, _) in zip(images, widths, strict=True):
        shown.append(
            picture(f"estimate {plane}".strip(), image, window, unit=data.unit, pixel=pixel)
        )
        shown.append(
            picture(
                f"half-width {plane}".strip(),
                bars,
                scale,
                unit=data.unit,
                colours="viridis",
                pixel=pixel,
            )
        )
    return Section(title, _note(found), pictures=shown, plots=drawn, columns=columns, rows=rows)


def _note(found: Intervals) -> str:
    parts = [f"{found.statement}."]
    if found.row is None:
        parts.append(f"Not calibrated: {found.why}.")
    else:
        parts.append(
            "The share is an expectation over objects like those, measured as the calibration "
            "supposes; a single object, or a part of one, may have less."
        )
    parts += [f"Note: {told}." for told in found.cautions]
    if found.covered is not None:
        parts.append(f"Of the known truth {100 * found.covered:.1f} % are inside.")
    rhat = found.told.get("rhat")
    if rhat is not None:
        told = (
            "the chains agree" if found.mixed else "the chains do not agree: take more iterations"
        )
        effective = found.told["effective_samples"]
        parts.append(f"R-hat {rhat:.3f}: {told}; {effective:.3g} effective samples.")
    return " ".join(parts)


def _calibration(card: IntervalsCard) -> str:
    levels = [row.level for row in card.levels]
    series = {
        "measured": (levels, [row.coverage for row in card.levels]),
        "as asked for": (levels, levels),
    }
    return plots.lines(series, "level", "coverage on further objects", whole=False)


def _rows(found: Intervals, card: IntervalsCard) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if found.row is not None:
        rows.append(("all", found.row.covered, f"{found.row.half_width:.3g}"))
        rows.append(("of the worst object", f"{100 * found.row.lowest:.1f} %", "–"))
    if found.level == card.strata_level:
        rows += [(s.name, f"{100 * s.coverage:.1f} %", f"{s.half_width:.3g}") for s in card.strata]
    return rows
