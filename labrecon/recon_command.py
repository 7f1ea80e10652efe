"""`labrecon recon`: one scan, or a batch of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labrecon import progress
from labrecon.batch_command import (
    Dask,
    MemoryLimit,
    Slurm,
    Threads,
    TimeLimit,
    Workers,
    finish,
    spectating,
)
from labrecon.commands import Debug, Device, Json, print_json

if TYPE_CHECKING:
    from labrecon.results import Result
    from labrecon.slabs import SlabsResult

__all__ = ["recon"]


def recon(
    instrument: Annotated[str, typer.Argument(help="Instrument, such as ct.")],
    scans: Annotated[
        list[str], typer.Argument(metavar="SCAN…", help="A file, several, or 'scans/**/*.h5'.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    recipe: Annotated[
        str, typer.Option("-r", "--recipe", help="TOML file, or a recipe of the instrument.")
    ] = "recon",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in solver.iterations=50."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder of `labrecon train`: use its network."),
    ] = None,
    other_geometry: Annotated[
        bool, typer.Option("--other-geometry", help="Use the model on another geometry.")
    ] = False,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after Ctrl-C.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
    slabs: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="In N parts, for volumes larger than memory."),
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(metavar="SLICES", help="Slabs: slices read beside each [all it sees].", min=0),
    ] = None,
    workers: Workers = None,
    threads: Threads = None,
    dask: Dask = None,
    slurm: Slurm = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    attempts: Annotated[
        int, typer.Option(help="Batch: tries of a scan that breaks its worker.", min=1)
    ] = 2,
    watch: Annotated[
        bool, typer.Option("--watch", help="Batch: wait for new files until Ctrl-C.")
    ] = False,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", help="Watch: a file is finished when it rests.")
    ] = 10.0,
    idle: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Watch: end after nothing new.")
    ] = None,
    new_recipe: Annotated[
        bool, typer.Option("--new-recipe", help="Batch: go on with another recipe.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Reconstruct a scan, or many: volume, provenance and report in a new folder.

    Several scans, or a quoted pattern, are a batch: OUTPUT/index.html shows all of them, the same
    command goes on after any stop, and `labrecon status` and `retry` take OUTPUT.
    """
    from labrecon.batch.inventory import is_pattern

    asked: dict[str, Any] = {
        "recipe": recipe,
        "overrides": settings or (),
        "model": model,
        "other_geometry": other_geometry,
        "device": device,
    }
    cluster = dask is not None or slurm is not None
    if len(scans) > 1 or is_pattern(scans[0]) or watch or workers is not None or cluster:
        if resume or force or slabs is not None or halo is not None:
            raise typer.BadParameter(
                "--resume, --force, --slabs and --halo are for one scan: a batch goes on by itself "
                "and replaces nothing; `labrecon retry` makes scans anew"
            )
        from labrecon.batch.cluster import crew_maker
        from labrecon.batch.means import Means
        from labrecon.batch.policy import Policy
        from labrecon.batch.run import reconstruct_batch
        from labrecon.batch.tasks import Limits

        limits = Limits(time_limit, memory_limit)
        policy = Policy(attempts, watch, settle, idle=idle)
        with spectating(quiet=as_json) as spectators:
            made = reconstruct_batch(
                instrument,
                scans,
                output,
                **asked,
                means=Means(workers or 1, threads, limits, policy),
                new_recipe=new_recipe,
                crew=crew_maker(dask, slurm),
                spectators=spectators,
            )
        finish(made, as_json=as_json)
        return
    if new_recipe or any(each is not None for each in (threads, time_limit, memory_limit, idle)):
        raise typer.BadParameter(
            "--threads, --time-limit, --memory-limit, --idle and --new-recipe are for a batch: "
            "quote a pattern, or add --workers 1"
        )
    with progress.shown(quiet=as_json) as watcher:
        asked |= {"resume": resume, "force": force, "watcher": watcher}
        result = _reconstructed(instrument, scans[0], output, slabs, halo, asked)
    if as_json:
        print_json(result.summary)
    else:
        _tell(result)


def _reconstructed(
    instrument: str,
    scan: str,
    output: Path,
    slabs: str | None,
    halo: int | None,
    asked: dict[str, Any],
) -> Result | SlabsResult:
    if slabs is None:
        if halo is not None:
            raise typer.BadParameter("--halo is for slabs: add --slabs N")
        from labrecon.recon import reconstruct

        return reconstruct(instrument, scan, output, **asked)
    from labrecon.slabs import reconstruct_in_slabs

    if slabs != "auto" and not (slabs.isdigit() and int(slabs) > 0):
        raise typer.BadParameter(f"--slabs {slabs}: expected a number of slabs, or auto")
    number: Any = slabs if slabs == "auto" else int(slabs)
    beside: Any = "auto" if halo is None else halo
    return reconstruct_in_slabs(instrument, scan, output, slabs=number, halo=beside, **asked)


def _tell(result: Result | SlabsResult) -> None:
    from labrecon.io.plain import brief
    from labrecon.report.ending import ending

    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    main = result.summary["reconstructions"][0]
    image = result.summary["chi2"]
    chi2 = "" if image is None else f", χ² {image:.3g} per sample"
    ended, count = ending(main)
    after = f" after {count}" if count else ""
    typer.echo(f"{main['title']}: {ended}{after}, {main['seconds']:.3g} s{chi2}")
    for line in result.summary.get("calibration", ()):
        typer.echo(f"estimated: {line}")
    found = main.get("calibration")
    if found is not None and image is not None:
        typer.echo(
            f"estimated: χ² of the best object of a quadratic prior {found['chi2']:.3g} per degree "
            f"of freedom, {found['chi2_before']:.3g} with the values before; that of the image is "
            f"{image:.3g} per sample"
        )
    for name, value in result.summary.get("findings", {}).items():
        typer.echo(f"{name}: {brief(value)}")
    bars = main.get("uncertainty")
    if bars is not None:
        typer.echo(f"error bars: {bars['statement']}")
        for caution in bars["cautions"]:
            typer.echo(f"note: {caution}")
    for what in ("volume", "half_width", "report"):
        if what in result.summary:
            typer.echo(f"{what.replace('_', '-')}  {result.summary[what]}")
