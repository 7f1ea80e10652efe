"""`labrecon train`: a thin function over `labrecon.train.train`."""

from __future__ import annotations

import os
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

__all__ = ["train"]


def train(
    instrument: Annotated[str, typer.Argument(help="Instrument, such as ct.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Run folder: a new one, or one to go on with.")
    ],
    network: Annotated[
        str | None, typer.Option("-n", "--network", help="Network [the recipe's: unrolled].")
    ] = None,
    objects: Objects = None,
    scans: Annotated[
        Path | None,
        typer.Option(
            help="Folder of measured scans: paired with objects by name, or alone for a learner "
            "that needs no truth, such as ssdu."
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option("-r", "--recipe", help="TOML file, or a recipe of the instrument.")
    ] = "train",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in fit.epochs=20."),
    ] = None,
    geometry: GeometryFile = None,
    scan: MeasuredScan = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network; the same command goes on after any stop."""
    from labrecon.train import train as carry_out

    first = os.environ.get("RANK", "0") == "0"
    with progress.shown(quiet=as_json or not first) as watcher:
        result = carry_out(
            instrument,
            output,
            network=network,
            objects=objects,
            scans=scans,
            recipe=recipe,
            overrides=settings or (),
            geometry=geometry,
            scan=scan,
            device=device,
            watcher=watcher,
        )
    if not first:
        return
    if as_json:
        print_json({**result.summary, "already_done": result.already_done})
        return
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    _tell(result.summary, result.already_done)


def _tell(told: dict[str, Any], already_done: bool) -> None:
    from labrecon.report.training import metric_title

    training, network = told["training"], told["model"]["network"]
    if already_done:
        typer.echo("this run is done; name another folder to train again")
    kept = "" if training["best_step"] is None else f", kept those of step {training['best_step']}"
    typer.echo(
        f"{network}: {training['status']} after {training['steps']} steps, "
        f"{training['seconds']:.3g} s{kept}"
    )
    metrics = list(told["methods"][0]["metrics"])
    held = "objects" if told["data"]["objects"] else "scans"
    rows = [(f"held-out {held}", *(metric_title(name) for name in metrics))]
    for method in told["methods"]:
        numbers = (f"{method['metrics'].get(name, float('nan')):.4g}" for name in metrics)
        rows.append((method["title"], *numbers))
    print_rows(rows)
    typer.echo(f"model   {told['output']}\nreport  {told['report']}")
