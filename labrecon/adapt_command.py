"""`labrecon adapt`: a thin function over `labrecon.adapt.adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from labrecon import progress
from labrecon.commands import Debug, Device, Json, Objects, print_json, print_rows

__all__ = ["adapt"]

#: Numbers that are calibrated, of which the terminal shows so many.
SHOWN = 8


def adapt(
    run: Annotated[Path, typer.Argument(help="Run folder of `labrecon train`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Run folder: a new one, or one to go on with.")
    ],
    scans: Annotated[
        list[str], typer.Option("--scans", help="New scans: a folder, a file, or 'scans/*.h5'.")
    ],
    method: Annotated[
        str | None, typer.Option("-m", "--method", help="rr, rr+, pp or transfer [rr].")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(metavar="NUISANCE", help="Find this of the operator, too."),
    ] = None,
    objects: Objects = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="TOML file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in coupling=0.05."),
    ] = None,
    instrument: Annotated[
        str | None, typer.Option(metavar="MODULE:CLASS", help="Where no plugin registers it.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Adapt a trained network to an instrument that has drifted since."""
    from labrecon.adapt import adapt as carry_out

    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        typer.echo(text, err=True)

    with progress.shown(quiet=as_json) as watcher:
        result = carry_out(
            run,
            scans,
            output,
            method=method,
            calibrate=calibrate or (),
            objects=objects,
            recipe=recipe,
            overrides=settings or (),
            instrument=instrument,
            device=device,
            watcher=watcher,
            tell=tell,
        )
    if as_json:
        print_json({**result.summary, "already_done": result.already_done})
        return
    for warning in (f"warning: {one}" for one in result.warnings):
        if warning not in said:
            typer.echo(warning, err=True)
    _tell(result.summary, result.already_done)


def _tell(told: dict[str, Any], already_done: bool) -> None:
    if already_done:
        typer.echo("this run is done; name another folder to adapt again")
    for line in told["differences"]:
        typer.echo(f"changed: {line}")
    for one in told["calibration"][:SHOWN]:
        unit = f" {one['unit']}" if one["unit"] else ""
        typer.echo(
            f"calibrated: {one['label']} {one['value']:.4g}{unit} (before: {one['start']:.4g}); "
            "no error is estimated"
        )
    if len(told["calibration"]) > SHOWN:
        typer.echo(f"calibrated: {len(told['calibration']) - SHOWN} more, in provenance.json")
    training = told["training"]
    if training["steps"]:
        typer.echo(
            f"{told['method']}: {training['status']} after {training['steps']} steps, "
            f"{training['seconds']:.3g} s"
        )
    metrics = list(told["ways"][0]["metrics"])
    rows = [("the scans", "χ²", "lag-1 / bound", *(name.upper() for name in metrics))]
    for way in told["ways"]:
        numbers = [way["chi2"], way["lag1_worst"], *(way["metrics"][name] for name in metrics)]
        rows.append((way["title"], *("–" if n is None else f"{n:.4g}" for n in numbers)))
    print_rows(rows)
    typer.echo(f"model   {told['output']}\nreport  {told['report']}")
