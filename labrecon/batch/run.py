"""Many scans, unattended: one call, which goes on after any stop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrecon import plugins
from labrecon.batch.inventory import find, require_files
from labrecon.batch.means import Means
from labrecon.batch.opening import Asked
from labrecon.batch.policy import Spectator
from labrecon.batch.session import BatchResult, CrewMaker, held, local_crew, make_ready, work
from labrecon.batch.tasks import Setup, model_hash
from labrecon.errors import ScanError
from labrecon.job import assemble_job
from labrecon.plugins import Host
from labrecon.reading import readers_of
from labrecon.uncertainty.asked import check_asked

__all__ = ["reconstruct_batch"]


def reconstruct_batch(
    instrument: str,
    scans: Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    model: str | Path | None = None,
    other_geometry: bool = False,
    device: str = "auto",
    means: Means | None = None,
    new_recipe: bool = False,
    crew: CrewMaker = local_crew,
    spectators: Sequence[Spectator] = (),
    host: Host | None = None,
) -> BatchResult:
    """Reconstruct many scans into one folder; the same call goes on after any stop.

    ``out/scans/NAME`` is what `labrecon.recon.reconstruct` writes of a scan, ``out/index.html``
    shows them all. A scan that fails never stops the others, and what is done is neither made
    again nor overwritten.

    Args:
        instrument: a registered name, or ``"module:Class"``: workers look it up for themselves.
        scans: files, or patterns such as ``"scans/**/*.h5"``.
        out: a new folder, or that of a batch to go on with.
        recipe: a TOML file, a name from ``instrument.recipes()``, or values.
        overrides: dotted assignments on top of the recipe.
        model: run folder of `labrecon train`.
        other_geometry: use the model on a geometry that it was not trained for.
        device: a torch device, or ``"auto"``.
        means: workers, limits, attempts, watching.
        new_recipe: go on with a batch that was begun with another recipe.
        crew: who reconstructs.
        spectators: are told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name or option, or another recipe than before; exit code 2.
        ModelError: the model is damaged, or was trained for another instrument; 2.
        ScanError: there is no such scan; 3.
        OutputError: ``out`` holds something else, another process works on it, or the disk is
            full; 5.
    """
    out, means = Path(out).absolute(), means or Means()
    host = host or plugins.host()
    patterns = [os.path.abspath(scan) for scan in scans]
    model = None if model is None else str(Path(model).absolute())
    job = assemble_job(
        instrument,
        recipe=recipe,
        overrides=overrides,
        device=device,
        host=host,
        model=model,
        other_geometry=other_geometry,
    )
    check_asked(job)
    values = job.recipe.plain()
    setup = Setup(
        instrument, values, model, other_geometry, device, means.threads_each, model_hash(job)
    )
    asked = Asked(setup, patterns, means.plain())
    require_files(map(str, scans))
    readers = readers_of(job.instrument, host)
    found = find(patterns, readers, without=out)
    if not found and not means.policy.watch:
        raise ScanError(
            f"no file matches {', '.join(map(str, scans))}; quote patterns so that the shell "
            "leaves them alone, and --watch waits for files that are still to come"
        )
    with held(out, asked, new_recipe) as (manifest, lost):
        night = make_ready(out, manifest, lost, setup, means, job, crew, spectators, host)
        if not means.policy.watch:
            night.take_in(found)
        return work(night)
