"""The report of an adaptation: residuals and pictures before and after."""

from __future__ import annotations

from typing import Any

from labrecon.adapt.judging import Judged
from labrecon.adapt.order import Order
from labrecon.adapt.recipe import AdaptRecipe
from labrecon.io.plain import dumps
from labrecon.report import plots
from labrecon.report.page import environment
from labrecon.report.pictures import picture, planes, window_of
from labrecon.report.sections import Section

__all__ = ["render_adaptation"]

_TITLES = {
    "rr": "Reuse and regularise (R&R)",
    "rr+": "Reuse and regularise, tuned (R&R+)",
    "pp": "Parametrise and perturb (P&P)",
    "transfer": "Transfer learning",
}


def render_adaptation(order: Order, ways: list[Judged], provenance: dict[str, Any]) -> str:
    """The page as HTML, with everything inside."""
    sections = [_comparison(ways), _changes(order, provenance)]
    sections += [_scan(order, ways, i) for i in range(len(ways[0].estimates))]
    return (
        environment()
        .get_template("adaptation.html.j2")
        .render(
            title=_title(order.recipe),
            instrument=order.instrument.title or order.instrument.name,
            warnings=order.warnings,
            provenance=provenance,
            tiles=_tiles(order, ways),
            sections=[section for section in sections if section is not None],
            recipe=dumps(provenance["recipe"]),
            told=dumps(provenance),
        )
    )


def _title(recipe: AdaptRecipe) -> str:
    if recipe.method == "pp" and recipe.measure == "reused":
        return "Fine-tuned towards reuse and regularise (P&P with the estimates of R&R)"
    return _TITLES[recipe.method]


def _tiles(order: Order, ways: list[Judged]) -> list[tuple[str, str, str]]:
    after, before = ways[0], ways[1] if len(ways) > 1 else None
    tiles = [
        ("Network", order.parent.card.network, f"trained in {order.parent.folder.name}"),
        ("Scans", str(len(order.scans)), "adapted to and judged by"),
    ]
    for name, attribute in (("χ²", "chi2"), ("lag-1 / bound", "whiteness")):
        value = getattr(after, attribute)
        if value is not None:
            note = f"not adapted: {getattr(before, attribute):.4g}" if before else ""
            tiles.append((name, f"{value:.4g}", note))
    return tiles


def _comparison(ways: list[Judged]) -> Section:
    metrics = tuple(ways[0].metrics)
    rows = [
        (
            way.title,
            "–" if way.chi2 is None else f"{way.chi2:.4g}",
            f"{way.deviation:.4g}",
            "–" if way.whiteness is None else f"{way.whiteness:.3g}",
            *(f"{way.metrics[name]:.4g}" for name in metrics),
            f"{way.seconds:.3g}",
            way.note,
        )
        for way in ways
    ]
    named = tuple(name.upper() for name in metrics)
    return Section(
        "Before and after",
        "Means over the scans. χ² per sample is about 1 where scan and reconstruction agree within "
        "the noise, and below where the noise is fitted; white residuals have a lag-1 correlation "
        "of at most 1 in units of its bound. A small χ² alone is no good image.",
        columns=("", "χ²", "residual σ", "lag-1 / bound", *named, "seconds", ""),
        rows=rows,
    )


def _changes(order: Order, provenance: dict[str, Any]) -> Section | None:
    rows = [tuple(line.split(": ", 1)) for line in order.differences]
    rows += [
        (
            f"calibrated {one['label']}",
            f"{one['value']:.4g} {one['unit']} (before: {one['start']:.4g})",
        )
        for one in provenance["calibration"]
    ]
    if not rows:
        return None
    return Section("What has changed", columns=("", ""), rows=rows)


def _scan(order: Order, ways: list[Judged], index: int) -> Section:
    title = order.files[index].name
    domain, unit = order.operator.domain, order.instrument.unit
    if domain.ndim < 2:
        drawn = {way.title: way.estimates[index].abs().numpy() for way in ways}
        return Section(title, plots=[("", plots.profile(drawn, domain.axes[0], unit))])
    sizes = order.instrument.voxel_size(order.geometry)
    upward = order.instrument.upward
    images = [(way, planes(way.estimates[index], domain.axes, sizes, upward)) for way in ways]
    window = window_of([image for _, found in images for _, image, _ in found[:1]])
    shown = []
    for way, found in images:
        plane, image, pixel = found[0]
        shown.append(picture(way.title, image, window, unit=unit, pixel=pixel, note=plane))
    return Section(title, "All in one grey window.", shown, tight=True)
