"""Scans of a batch made again; what was made of them is kept."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labrecon import plugins
from labrecon.batch.lock import is_locked
from labrecon.batch.manifest import FILE, Manifest
from labrecon.batch.means import Means
from labrecon.batch.opening import Asked, output_of
from labrecon.batch.policy import Spectator
from labrecon.batch.session import BatchResult, CrewMaker, held, local_crew, make_ready, work
from labrecon.batch.tasks import Setup, model_hash
from labrecon.errors import OutputError, RecipeError
from labrecon.job import assemble_job
from labrecon.plugins import Host

__all__ = ["retry"]


def retry(
    out: str | Path,
    *,
    failed: bool = False,
    stale: bool = False,
    names: Sequence[str] = (),
    means: Means | None = None,
    crew: CrewMaker = local_crew,
    spectators: Sequence[Spectator] = (),
    host: Host | None = None,
) -> BatchResult:
    """Reconstruct scans of a batch again, by its own recipe, and go on with it.

    What was made of them is moved to ``out/old``. A process that works on the batch takes them, if
    there is one.

    Args:
        out: folder of the batch.
        failed: all that failed.
        stale: all that were made by another recipe, or of a file that has changed since.
        names: these.
        means: workers, limits, attempts; those of the batch by default.
        crew: who reconstructs.
        spectators: are told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        OutputError: the folder holds no batch; 5.
        RecipeError: nothing is asked for, or there is no scan of a name; 2.
    """
    out, host = Path(out).absolute(), host or plugins.host()
    if not (failed or stale or names):
        raise RecipeError("say which scans: --failed, --stale, or their names")
    with Manifest(out / FILE) as manifest:
        facts = manifest.facts()
        if is_locked(out):
            _queue_again(manifest, out, failed, stale, names)
            return BatchResult(out, manifest.counts(), interrupted=False, queued=True)
    setup = Setup(**facts["setup"])
    means = means or Means.read(facts["options"])
    # A watch is a command of its own, and would never come back.
    means = replace(means, policy=replace(means.policy, watch=False))
    job = assemble_job(
        setup.instrument,
        recipe=setup.recipe,
        device=setup.device,
        host=host,
        model=setup.model,
        other_geometry=setup.other_geometry,
    )
    setup = replace(setup, threads=means.threads_each, model_hash=model_hash(job))
    with held(out, Asked(setup, (), means.plain()), False) as (manifest, lost):
        night = make_ready(out, manifest, lost, setup, means, job, crew, spectators, host)
        again = _queue_again(manifest, out, failed, stale, names)
        if not again:
            night.say("there is nothing of that kind to try again")
        result = work(night)
    return replace(result, failed=[name for name in result.failed if name in again])


def _queue_again(
    manifest: Manifest, out: Path, failed: bool, stale: bool, names: Sequence[str]
) -> list[str]:
    """Make scans pending, and put aside what was made of them; which those are."""
    again = []
    # At once: the process that works on the batch begins none of them meanwhile.
    with manifest.together():
        rows = {row["name"]: row for row in manifest.rows()}
        wanted = {_named(name, rows, out) for name in names}
        for name, row in rows.items():
            asked = (
                name in wanted
                or (failed and row["state"] == "failed")
                or (stale and row["state"] == "done" and bool(row["stale"]))
            )
            if asked and row["state"] == "running":
                raise RecipeError(f"{name} is being reconstructed now; retry it afterwards")
            if asked:
                if row["output"]:
                    _put_aside(out, name)
                blank: dict[str, Any] = {"attempts": 0, "alone": 0, "output": None, "told": {}}
                manifest.put_back(row["id"], stale="", **blank)
                again.append(name)
    return again


def _named(name: str, rows: Mapping[str, Any], out: Path) -> str:
    """The scan that a name means: its own, or the end of it where that is clear."""
    if name in rows:
        return name
    ends = [one for one in rows if one.endswith(f"/{name}")]
    if len(ends) == 1:
        return ends[0]
    near = ends or difflib.get_close_matches(name, rows, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise RecipeError(
        f"the batch has no scan {name}{hint} `labrecon status {out} --all` lists them"
    )


def _put_aside(out: Path, name: str) -> None:
    folder = output_of(out, name)
    if not folder.exists():
        return
    kept = (out / "old" / f"{name}-{i}" for i in range(1, 1_000_000))
    target = next(path for path in kept if not path.exists())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    except OSError as error:
        raise OutputError(f"{folder} can not be moved to {target}: {error}") from error
