"""The page: numbers at the top, sections, those of plugins, and the provenance."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2

from labrecon.io.plain import brief, dumps
from labrecon.plugins import Host
from labrecon.report.data import ReportData
from labrecon.report.ending import ending
from labrecon.report.sections import SECTIONS, Section, resolution_text
from labrecon.report.uncertainty import uncertainty_section

__all__ = ["environment", "page_or_warning", "render"]


def render(data: ReportData, host: Host, more: Sequence[Section] = ()) -> str:
    """The page as HTML, with the sections that plugins add.

    A plugin's section that fails is named in the page; the rest of the page is there.

    Args:
        data: what was made.
        host: the plugins.
        more: sections that come before all others.
    """
    first, *rest = [section for make in SECTIONS if (section := make(data)) is not None]
    bars = [found for found in [uncertainty_section(data)] if found is not None]
    # What an instrument is for comes right after its picture.
    sections = [*more, first, *_plugin_sections(data, host), *bars, *rest]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            title=Path(data.source).name,
            tiles=_tiles(data),
            sections=sections,
            recipe=dumps(data.provenance.get("recipe", {})),
            provenance=dumps(data.provenance),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Jinja with the templates beside this file; everything is escaped unless marked safe."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)


def page_or_warning(make: Callable[[], str], warnings: list[str]) -> str:
    """A page; or, as a picture that can not be drawn must not cost the result, one that says so.

    Args:
        make: renders the page.
        warnings: are added to.
    """
    try:
        return make()
    except Exception as error:
        warnings.append(f"the report could not be made: {type(error).__name__}: {error}")
        return f"<!doctype html><title>labrecon</title><p>{html.escape(warnings[-1])}</p>"


def _tiles(data: ReportData) -> list[tuple[str, str, str]]:
    """Label, value and note of the numbers at the top."""
    solution, quality = data.main.solution, data.main.quality
    told = data.provenance["reconstructions"][0]
    ended, count = ending(told)
    shape = " × ".join(map(str, solution.x.shape))
    tiles = [
        ("Method", data.main.task.plan.title, count),
        ("Status", ended, f"{solution.seconds:.3g} s"),
        ("Volume", shape, _voxel_text(data.voxel_size)),
    ]
    if quality.chi2 is None:
        note = f"{data.instrument.data_unit} · noise level not stated".lstrip("· ")
        tiles.append(("Residual", f"{quality.deviation:.3g}", note))
    else:
        tiles.append(
            ("χ² per sample", f"{quality.chi2:.3g}", "of the volume; 1 = fits within the noise")
        )
    for shown in data.scan.curves:
        if shown.marker is not None:
            tiles.append((shown.title, f"{shown.marker:.6g}", shown.xlabel))
    for name, value in told["metrics"].items():
        tiles.append((name.upper(), f"{value:.4g}", "against the known truth"))
    split = quality.split_half
    if split is not None:
        tiles.append(("Resolution", *resolution_text(split)))
    for name, value in data.provenance.get("findings", {}).items():
        tiles.append((name, brief(value), "found by a plugin"))
    return tiles


def _voxel_text(sizes: tuple[float | None, ...] | None) -> str:
    if sizes is None:
        return "voxel size unknown"
    known = [f"{size:.4g}" for size in sizes if size is not None]
    return f"{known[0] if len(set(known)) == 1 else ' × '.join(known)} mm voxels"


def _plugin_sections(data: ReportData, host: Host) -> list[Section]:
    sections = []
    for name in host.names("report_sections"):
        try:
            body = str(host.get("report_sections", name)(data))
        except Exception as error:
            told = html.escape(f"{type(error).__name__}: {error}")
            body = f'<p class="warning">This section of a plugin failed: {told}</p>'
        if body:
            sections.append(Section(name, html=body))
    return sections
