"""`labrecon reproduce`: a thin function over `labrecon.reproduce.reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labrecon import progress
from labrecon.commands import Debug, Json, print_json
from labrecon.errors import LabreconError, NotReproduced

if TYPE_CHECKING:
    from labrecon.reproduce import Reproduction

__all__ = ["reproduce"]


def reproduce(
    output: Annotated[Path, typer.Argument(help="Output of `labrecon recon`, or a batch.")],
    moved: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="OLD=NEW", help="A file or folder that was moved."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", help="Folder in which moved files are found by their SHA-256."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Relative difference up to which volumes are equal.")
    ] = 1e-5,
    device: Annotated[
        str | None, typer.Option(help="Where to compute [as it was]: cpu, cuda, cuda:1.")
    ] = None,
    instrument: Annotated[
        str | None, typer.Option(help="Its name, or module:Class, where that has changed.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder in which the new output stays.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Of a batch: so many finished scans, at random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an output again from its provenance, and compare the volumes."""
    from labrecon import reproduce as reproducing

    renamed = dict(_old_and_new(text) for text in moved or ())
    scans = [output]
    if sample is not None:
        scans = reproducing.finished_scans(output, sample, seed)
    elif not (output / "provenance.json").exists() and (output / "scans").is_dir():
        raise typer.BadParameter(f"{output} is a batch: name a scan in its scans/, or --sample N")
    made: list[Reproduction] = []
    failures: list[LabreconError] = []
    for scan in scans:
        try:
            with progress.shown(quiet=as_json) as watcher:
                result = reproducing.reproduce(
                    scan,
                    renamed=renamed,
                    searched=inputs,
                    instrument=instrument,
                    device=device,
                    tolerance=tolerance,
                    keep=keep
                    if keep is None or sample is None
                    else keep / scan.relative_to(output),
                    watcher=watcher,
                )
        except LabreconError as error:
            if sample is None:
                raise
            failures.append(error)
            typer.echo(f"{scan}: {error}", err=True)
            continue
        made.append(result)
        if not as_json:
            _tell(result)
    good = sum(result.reproduced for result in made)
    if as_json:
        told = [result.told() for result in made]
        failed = [str(error) for error in failures]
        print_json(told[0] if sample is None else {"scans": told, "failed": failed})
    elif sample is not None:
        typer.echo(f"{good} of {len(scans)} scans were reproduced")
    if good < len(made):
        raise typer.Exit(NotReproduced.exit_code)
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _old_and_new(text: str) -> tuple[str, Path]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise typer.BadParameter(f"--input takes OLD=NEW, got {text!r}")
    return old, Path(new)


def _tell(result: Reproduction) -> None:
    colour = typer.colors.GREEN if result.reproduced else typer.colors.RED
    status = typer.style(result.status, fg=colour, bold=True)
    typer.echo(f"{result.output}: {status} ({result.seconds:.3g} s)")
    if not result.comparison.identical:
        typer.echo(f"  {result.comparison}; the tolerance is {result.tolerance:g}")
    for line in result.notes:
        typer.echo(f"  note: {line}")
    for line in result.differences:
        typer.echo(f"  {line}")
    if result.kept is not None:
        typer.echo(f"  the new output is in {result.kept}")
