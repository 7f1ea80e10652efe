"""labrecon's own commands: thin functions over what a notebook would call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labrecon import progress
from labrecon.errors import ConformanceFailed, OutputError
from labrecon.plugins import PluginReport, host

if TYPE_CHECKING:
    from labrecon.testing import Outcome

__all__ = [
    "check",
    "demo",
    "describe",
    "new",
    "plugins",
    "print_json",
    "print_rows",
    "simulate",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("-v", "--debug", help="Show tracebacks of errors.")]
Objects = Annotated[
    Path | None,
    typer.Option(help="Folder of images, TIFF, HDF5, NumPy, NIfTI [simulated objects]."),
]
GeometryFile = Annotated[
    Path | None, typer.Option(help="JSON of the acquisition [the instrument's example].")
]
MeasuredScan = Annotated[
    Path | None, typer.Option(help="A measured file, whose geometry is taken.")
]
Device = Annotated[
    str, typer.Option(help="Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1.")
]


def describe(
    name: Annotated[str, typer.Argument(help="A file, or the name of an instrument, solver, …")],
    instrument: Annotated[
        str | None, typer.Option(help="Read the file as one of this instrument.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Print this recipe of the instrument as TOML."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a file holds, or what an instrument, solver, prior, … is and takes."""
    from labrecon.describe import describe as look

    if recipe is not None:
        _print_recipe(name, recipe, as_json)
        return
    found = look(name, host(), instrument)
    if as_json:
        print_json({"name": found.name, "kind": found.kind, **found.parts})
        return
    typer.echo(f"{typer.style(found.name, bold=True)} · {found.kind}")
    if found.text:
        typer.echo("\n" + found.text)
    for title, rows in found.parts.items():
        if rows:
            typer.echo("\n" + typer.style(title, bold=True))
            print_rows([(str(key), str(value)) for key, value in rows.items()])


def _print_recipe(name: str, recipe: str, as_json: bool) -> None:
    from labrecon import tomlfile
    from labrecon.describe import recipe_of
    from labrecon.plan import find_instrument

    values = recipe_of(find_instrument(name, host()), recipe)
    if as_json:
        print_json(dict(values))
    else:
        typer.echo(tomlfile.dumps(values), nl=False)


def check(
    name: Annotated[
        str | None, typer.Argument(help="Instrument, such as ct, or module:Class in this folder.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Run this check only.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="CHECK", help="Leave this check out.")
    ] = None,
    device: Device = "auto",
    scan: Annotated[
        Path | None, typer.Option(help="A measured file that its readers should read.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random probes.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that a check may take.")] = 120.0,
    listed: Annotated[bool, typer.Option("--list", help="Show all checks and stop.")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a report page.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier page.")] = False,
    verbose: Annotated[bool, typer.Option("-v", help="Show what passed, in full.")] = False,
    as_json: Json = False,
) -> None:
    """Check that an instrument keeps its promises: adjoint, gradients, noise, files, …."""
    if listed:
        from labrecon.testing import SUITE

        print_rows([(each.name, each.title) for each in SUITE])
        return
    if name is None:
        raise typer.BadParameter("name an instrument; `labrecon plugins -v` lists them")
    from labrecon.conformance import Job, check_named

    if page is not None and page.exists() and not force:
        raise OutputError(f"{page} exists; name another file, or use --force to replace it")
    job = Job(name, device, tuple(only or ()), tuple(skip or ()), timeout, scan, seed)
    report = check_named(job, None if as_json else lambda told: _print_outcome(told, verbose))
    if page is not None:
        from labrecon.io.atomic import write_file
        from labrecon.report.checks import render_checks

        write_file(page, render_checks(report), force=force)
    if as_json:
        print_json(report.plain())
    else:
        counts = ", ".join(f"{n} {status}" for status, n in report.counts().items() if n)
        typer.echo(f"{name}: {counts}")
        if page is not None:
            typer.echo(f"report  {page}")
    if not report.passed:
        raise typer.Exit(ConformanceFailed.exit_code)


_MARKS = {
    "passed": ("✓", typer.colors.GREEN),
    "warned": ("!", typer.colors.YELLOW),
    "failed": ("✗", typer.colors.RED),
    "skipped": ("–", None),
}


def _print_outcome(outcome: Outcome, verbose: bool) -> None:
    """The findings of a check in a line each; what to do, where there is something to do."""
    telling = [f for f in outcome.findings if f.status != "passed" or verbose]
    closest = max(outcome.findings, key=lambda f: (f.value or 0.0) / (f.tolerance or 1.0))
    for finding in telling or [closest]:
        mark, colour = _MARKS[finding.status]
        label = typer.style(f"{mark} {outcome.check:<18}", fg=colour)
        typer.echo(f"{label} {finding}")
        if finding.advice and finding.status in ("failed", "warned"):
            typer.echo(f"{'':21}→ {finding.advice}")


def simulate(
    instrument: Annotated[str, typer.Argument(help="Instrument whose reader can write.")],
    path: Annotated[Path, typer.Argument(help="File to make; its suffix picks the format.")],
    seed: Annotated[int, typer.Option(help="Of the object and the noise.")] = 0,
    geometry: Annotated[
        Path | None, typer.Option(help="JSON of the acquisition [the instrument's example].")
    ] = None,
    nuisance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE[,VALUE…]",
            help="Simulate with this value of a calibration unknown; the file does not tell it.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Simulate a scan and write it as the instrument would, to try recipes on."""
    from labrecon.misset import parse_nuisances
    from labrecon.plan import find_instrument
    from labrecon.simulate import simulate_file

    found = find_instrument(instrument, host())
    scan = simulate_file(
        found,
        path,
        host=host(),
        seed=seed,
        geometry=geometry,
        nuisances=parse_nuisances(nuisance or ()),
        force=force,
    )
    if as_json:
        print_json({"file": str(path), "geometry": scan.geometry})
    else:
        typer.echo(f"{path}: data {' × '.join(map(str, scan.data.shape))}")


def new(
    name: Annotated[str, typer.Argument(help="Of the package, such as my-spectrometer.")],
    external: Annotated[
        bool, typer.Option("--external", help="The model is NumPy, C, a vendor's library, ….")
    ] = False,
    template: Annotated[
        str | None, typer.Option(help="torch, external, or a folder of templates of your own.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("-o", "--output", help="Where to make the package's folder.")
    ] = Path(),
    title: Annotated[str, typer.Option(help="A line about the instrument.")] = "",
    author: Annotated[str, typer.Option(help="For the licence and the package.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a plugin package for an instrument: installable, tested, to be changed."""
    from labrecon.scaffold import create

    if external and template not in (None, "external"):
        raise typer.BadParameter("--external is a template of its own; leave --template out")
    chosen = "external" if external else template or "torch"
    files = create(name, folder, host=host(), template=chosen, title=title, author=author)
    target, package = folder / name, name.replace("-", "_")
    if as_json:
        print_json({"folder": str(target), "files": [str(file) for file in files]})
        return
    for file in files:
        typer.echo(f"  {file}")
    typer.echo(
        f'next:\n  pip install -e "{target}[test]"\n  labrecon check {package}\n'
        f"  labrecon simulate {package} scan.h5\n  labrecon recon {package} scan.h5 -o out\n"
        f"then make it yours: {target}/README.md says how"
    )


def plugins(
    verbose: Annotated[
        bool, typer.Option("-v", help="What each registers, and tracebacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which plugins there are, and which are broken."""
    from labrecon.describe import offered

    # What a hook raises is found out by asking it.
    kinds = {kind: host().names(kind) for kind in offered()}
    reports = host().reports.values()
    if as_json:
        print_json({"plugins": [asdict(report) for report in reports], "offers": kinds})
        return
    for report in reports:
        _print_plugin(report, verbose)
        for kind, names in kinds.items() if verbose else ():
            mine = [name for name, owner in names.items() if report.name in owner.split(", ")]
            if mine:
                typer.echo(f"    {kind}: {', '.join(mine)}")
    for kind, names in kinds.items():
        for name, owner in names.items():
            if "," in owner:
                typer.echo(f"conflict: the {kind[:-1]} {name!r} is registered by {owner}")


def _print_plugin(report: PluginReport, verbose: bool) -> None:
    colour = typer.colors.GREEN if report.status == "ready" else typer.colors.RED
    title = typer.style(report.name, bold=True)
    typer.echo(f"{title} · {typer.style(report.status, fg=colour)}")
    told = [f"{report.distribution} {report.version}".strip(), report.licence]
    if report.contract:
        told.append(f"contract {report.contract}")
    told += [f"needs {', '.join(report.hardware)}"] if report.hardware else []
    typer.echo(f"    {' · '.join(filter(None, told))}")
    if report.hooks:
        typer.echo(f"    hooks: {', '.join(report.hooks)}")
    if report.detail:
        typer.echo(f"    {report.detail}")
    if verbose and report.trace:
        typer.echo(report.trace)


def demo(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to make [./labrecon-demo].")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Simulate, reconstruct and report, for each instrument that is installed."""
    from labrecon.demo import demonstrate, free_folder

    folder = free_folder(Path("labrecon-demo")) if output is None else output
    with progress.shown(quiet=as_json) as watcher:
        entries = demonstrate(folder, device=device, watcher=watcher)
    index = folder / "index.html"
    if as_json:
        print_json({"index": str(index), "instruments": [entry.told() for entry in entries]})
    else:
        for entry in entries:
            print_rows([(entry.instrument, entry.status, entry.detail)])
        typer.echo(f"open {index}")
    outcomes = {entry.status for entry in entries}
    # A demonstration in which nothing was shown has failed, too.
    if "failed" in outcomes or "done" not in outcomes:
        raise typer.Exit(4)


def print_rows(rows: list[tuple[str, ...]]) -> None:
    """Print columns, each as wide as it must be."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo(("  " + "  ".join([*cells, row[-1]])).rstrip())


def print_json(told: dict[str, Any]) -> None:
    """Print plain values as one JSON object."""
    from labrecon.io.plain import dumps

    typer.echo(dumps(told))
