"""`labrecon design`: a thin function over `labrecon.study.design`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from labrecon import progress
from labrecon.commands import (
    Debug,
    Device,
    GeometryFile,
    Json,
    MeasuredScan,
    Objects,
    print_json,
    print_rows,
)
from labrecon.errors import RecipeError

__all__ = ["design"]


def design(
    instrument: Annotated[str, typer.Argument(help="Instrument, such as phase.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder: a new one, or one to go on with.")
    ],
    exposures: Annotated[
        str | None,
        typer.Option(help="Number of acquisitions, or several: 1,2,4 [the geometry's own]."),
    ] = None,
    objects: Objects = None,
    jitter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="Learn for a nuisance that is off by so much."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("-n", "--network", help="What is learned through.")
    ] = None,
    recipe: Annotated[
        str, typer.Option("-r", "--recipe", help="TOML file, or a recipe of the instrument.")
    ] = "design",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in design.starts=5."),
    ] = None,
    geometry: GeometryFile = None,
    scan: MeasuredScan = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn what to acquire, compare it with the usual designs, export it."""
    from labrecon.learners import parse_jitter
    from labrecon.study import design as carry_out

    given = list(settings or ())
    words = (exposures or "").replace(",", " ").split()
    if not all(word.isdigit() and int(word) for word in words):
        raise RecipeError(
            f"--exposures is a number of acquisitions, or several as in 1,2,4; got {exposures!r}"
        )
    counts = [int(word) for word in words]
    try:
        for name, size in parse_jitter(jitter or ()).items():
            given.append(f"design.jitter.{name}={size!r}")
    except ValueError as error:
        raise RecipeError(f"--jitter: {error}") from error
    with progress.shown(quiet=as_json) as watcher:
        result = carry_out(
            instrument,
            output,
            exposures=counts,
            network=network,
            objects=objects,
            recipe=recipe,
            overrides=given,
            geometry=geometry,
            scan=scan,
            device=device,
            watcher=watcher,
        )
    if as_json:
        print_json({**result.summary, "already_done": result.already_done})
        return
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    _tell(result.summary, result.already_done)


def _tell(told: dict[str, Any], already_done: bool) -> None:
    if already_done:
        typer.echo("this study is done; name another folder for another one")
    for each in told["designs"]:
        head = "held-out objects"
        if each["exposures"] is not None:
            head = f"{each['exposures']} exposures, {head}"
        names = list(each["methods"][0]["metrics"])
        rows = [(head, *(name.upper() for name in names), "learned is better by")]
        for method in each["methods"]:
            margin = each["margins"].get(method["title"], {}).get("text", "")
            numbers = (method["intervals"][name] for name in names)
            rows.append((method["title"], *numbers, margin))
        print_rows(rows)
        for file in each["files"]:
            typer.echo(f"file    {told['output']}/{file}")
    typer.echo(f"report  {told['report']}")
