"""`labrecon intervals`: a thin function over `labrecon.uncertainty.calibrate_intervals`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from labrecon.uncertainty.card import IntervalsCard

__all__ = ["intervals"]


def intervals(
    instrument: Annotated[str, typer.Argument(help="Instrument, such as ct.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write [RUN/intervals.json]."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("-r", "--recipe", help="TOML file, or a recipe of the instrument.")
    ] = "recon",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in uncertainty.level=0.95."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder of `labrecon train`: calibrate its network."),
    ] = None,
    objects: Objects = None,
    dataset: Annotated[
        str | None, typer.Option(help="Array of an HDF5 or .npz file that holds several.")
    ] = None,
    unit: Annotated[float, typer.Option(help="What a file's 1 is in the instrument's unit.")] = 1.0,
    count: Annotated[
        int,
        typer.Option(help="Number of simulated objects: 13 at least for 90 %, 28 for 95 %.", min=3),
    ] = 60,
    geometry: GeometryFile = None,
    scan: MeasuredScan = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Calibrate error bars on held-out objects, and measure what they cover."""
    from labrecon.uncertainty import calibrate_intervals

    with progress.shown(quiet=as_json) as watcher:
        made = calibrate_intervals(
            instrument,
            output,
            recipe=recipe,
            overrides=settings or (),
            model=model,
            objects=objects,
            dataset=dataset,
            unit=unit,
            count=count,
            geometry=geometry,
            scan=scan,
            device=device,
            force=force,
            watcher=watcher,
        )
    if as_json:
        told = made.card.model_dump(mode="json", exclude={"geometry", "versions"})
        print_json({**told, "output": str(made.path), "warnings": made.warnings})
        return
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    _tell(made.card)
    typer.echo(f"intervals  {made.path}")


def _tell(card: IntervalsCard) -> None:
    from labrecon.uncertainty.cautions import cautions

    typer.echo(
        f"{card.title}, {card.method}: calibrated on {card.calibrated_on} objects "
        f"({card.objects}), measured on {card.measured_on} others"
    )
    width = f"mean half-width, {card.unit}".removesuffix(", ")
    rows: list[tuple[str, ...]] = [("level", "covered", "worst object", width)]
    for row in card.levels:
        worst = f"{100 * row.lowest:.1f} %"
        rows.append((f"{100 * row.level:g} %", row.covered, worst, f"{row.half_width:.4g}"))
    print_rows(rows)
    on = {"calibrated_on": card.calibrated_on, "measured_on": card.measured_on}
    for caution in cautions(card.strata_level, **on):
        typer.echo(f"note: {caution}")
