"""`labrecon dark-zone`: a thin function over `labrecon_coronagraph.learned_zone`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labrecon import progress
from labrecon.errors import RecipeError

if TYPE_CHECKING:
    from labrecon_coronagraph.learned_zone import LearnedZone
    from labrecon_coronagraph.optics_geometry import OpticsGeometry

__all__ = ["dark_zone"]


def dark_zone(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    geometry: Annotated[
        Path | None,
        typer.Option(help="JSON of the optics [VLT, mask of 185 mas, 30 nm and 4 mas of jitter]."),
    ] = None,
    learn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DESIGN",
            help="apodizer, phase, lyot_stop or commands; may be repeated [apodizer].",
        ),
    ] = None,
    inner: Annotated[float, typer.Option(help="Inner radius of the zone in λ/D.")] = 3.0,
    outer: Annotated[float, typer.Option(help="Outer radius of the zone in λ/D.")] = 8.0,
    half: Annotated[bool, typer.Option("--half", help="Darken one half, x > 0, alone.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam.")] = 200,
    rate: Annotated[float, typer.Option(help="Learning rate, in amplitude or in rad.")] = 6e-3,
    batch: Annotated[int, typer.Option(min=1, help="Aberrations per step.")] = 8,
    draws: Annotated[
        int, typer.Option(min=1, help="Aberrations to learn from; as many others judge.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the aberrations and their order.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("-v", "--debug", help="Show tracebacks of errors.")
    ] = False,
) -> None:
    """Learn coronagraph optics that keep a zone around the star dark, whatever drifts."""
    import time

    from labrecon.io.atomic import check_output
    from labrecon.io.plain import dumps
    from labrecon_coronagraph.learned_zone import drifting_telescope, learn_dark_zone
    from labrecon_coronagraph.zone_page import compared

    check_output(output, force=force)
    optics = drifting_telescope() if geometry is None else _read(geometry)
    options: dict[str, Any] = {
        "designs": tuple(learn or ("apodizer",)),
        "inner": inner,
        "outer": outer,
        "half": half,
        "steps": steps,
        "rate": rate,
        "batch": batch,
        "draws": draws,
        "seed": seed,
    }
    begin = time.perf_counter()
    with progress.shown(quiet=as_json) as watcher:

        def tell(step: int, record: dict[str, float]) -> None:
            if watcher is not None:
                watcher.step("dark zone", {"step": float(step), **record}, steps)

        try:
            learned = learn_dark_zone(optics, callbacks=[tell], **options)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    told = _write(output, learned, optics, options, geometry, time.perf_counter() - begin, force)
    if as_json:
        typer.echo(dumps(told))
        return
    rows = compared(learned)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    for warning in learned.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for file in told["files"]:
        typer.echo(f"file    {output / file}")
    typer.echo(f"report  {output / 'report.html'}")


def _read(path: Path) -> OpticsGeometry:
    from pydantic import ValidationError

    from labrecon_coronagraph.optics_geometry import OpticsGeometry

    try:
        return OpticsGeometry.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecipeError(f"{path} can not be read: {error}") from error
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}"
            for one in error.errors()[:3]
        ]
        raise RecipeError(
            f"{path} is no geometry of the optics ({'; '.join(told)}); `labrecon describe "
            "wavefront` lists its fields"
        ) from error


def _write(
    output: Path,
    learned: LearnedZone,
    geometry: OpticsGeometry,
    options: dict[str, Any],
    source: Path | None,
    seconds: float,
    force: bool,
) -> dict[str, Any]:
    """The folder: designs, geometry, provenance, page; what ``--json`` prints."""
    import torch

    from labrecon.io.atomic import new_folder, write_text
    from labrecon.io.plain import dumps
    from labrecon.io.provenance import collect, hash_inputs
    from labrecon.plugins import host
    from labrecon_coronagraph.optics_fits import export_optics
    from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument
    from labrecon_coronagraph.zone_page import zone_page

    designed = WavefrontInstrument().designed(geometry, learned.after.designs)
    files = ["optics.fits", "optics.json"]
    results = {
        title: {
            "contrast": float(optics.contrast.mean()),
            "worst draw": float(optics.contrast.max()),
            "perfect optics": optics.perfect,
            "throughput": optics.throughput,
            "inner working angle": optics.angle,
        }
        for title, optics in (("given", learned.before), ("learned", learned.after))
    }
    with new_folder(output, force=force) as folder:
        export_optics(geometry, learned.after.designs, folder / "optics.fits")
        write_text(folder / "optics.json", designed.model_dump_json(indent=1))
        shown = {**options, "designs": ", ".join(options["designs"]), "geometry": source or "VLT"}
        write_text(
            folder / "report.html", zone_page(learned, {**shown, "seconds": f"{seconds:.1f}"})
        )
        made = collect(
            host=host(),
            inputs=hash_inputs([] if source is None else [source]),
            device=torch.device("cpu"),
            timings={"learn": seconds},
            instrument="wavefront",
            geometry=geometry,
            options=options,
            seed=options["seed"],
            results=results,
            warnings=learned.warnings,
            files=files,
        )
        write_text(folder / "provenance.json", dumps(made))
    return {"output": str(output), "files": files, "results": results, "warnings": learned.warnings}
