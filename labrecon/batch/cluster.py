"""Batches on a cluster: what ``--dask`` and ``--slurm`` lead to."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrecon.batch.dask_crew import DaskCrew
from labrecon.batch.means import Means, processors
from labrecon.batch.session import CrewMaker, local_crew
from labrecon.batch.slurm import read_jobs, start_jobs
from labrecon.batch.tasks import Crew, Setup
from labrecon.errors import RecipeError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["crew_maker"]

#: Seconds in which a scheduler must answer.
CONNECTING = 20.0


def crew_maker(dask: str | None, slurm: str | Path | None) -> CrewMaker:
    """Whoever reconstructs: the cluster that is asked for, or this machine.

    Args:
        dask: address of a Dask scheduler, its file (``scheduler.json``), or ``"local:N"`` for N
            Dask workers on this machine.
        slurm: TOML file of the jobs to submit; see `labrecon.batch.slurm.Jobs`.

    Raises:
        RecipeError: both, an address that can not be one, a package that is missing, or a key of
            the TOML file that is wrong.
    """
    if dask is None and slurm is None:
        return local_crew
    if dask is not None and slurm is not None:
        raise RecipeError("give --dask or --slurm, not both")
    _require("distributed", "dask" if slurm is None else "slurm")
    if slurm is not None:
        _require("dask_jobqueue", "slurm")
        jobs = read_jobs(Path(slurm))
        return lambda setup, means, out: _crew(start_jobs(jobs, out), setup, means, out)
    assert dask is not None
    kind, _, count = dask.partition(":")
    if kind == "local":
        workers = _count(dask, count)
        return lambda setup, means, out: _crew(_local(workers, means), setup, means, out)
    if "://" not in dask and not Path(dask).is_file():
        raise RecipeError(
            f"--dask {dask}: expected the address of a scheduler such as tcp://node1:8786, its "
            "scheduler file, or local:N"
        )
    return lambda setup, means, out: _crew(dask, setup, means, out)


def _require(module: str, option: str) -> None:
    if find_spec(module) is None:
        raise RecipeError(
            f"--{option} needs the package {module!r}, which is not installed: pip install "
            '"labrecon[cluster]"'
        )


def _count(dask: str, count: str) -> int:
    if not count.isdigit() or int(count) < 1:
        raise RecipeError(f"--dask {dask}: expected local:N with N Dask workers, 1 or more")
    return int(count)


def _crew(cluster: Any, setup: Setup, means: Means, out: Path) -> Crew:
    """The crew of a cluster, or of the scheduler at an address."""
    if means.threads is None:
        setup = replace(setup, threads=None)
    closing = ExitStack()
    try:
        if not isinstance(cluster, str):
            closing.enter_context(cluster)
        client = closing.enter_context(_client(cluster))
        return DaskCrew(client, setup, means.limits, out, closing)
    except BaseException:
        closing.close()
        raise


def _client(cluster: Any) -> Client:
    from distributed import Client

    named = isinstance(cluster, str)
    place = {"scheduler_file": cluster} if named and "://" not in cluster else {"address": cluster}
    try:
        # Not the process's default client: others may have theirs.
        return Client(**place, set_as_default=False, timeout=CONNECTING)
    except (OSError, ValueError) as error:
        raise RecipeError(f"no Dask scheduler answers at {cluster}: {error}") from error


def _local(workers: int, means: Means) -> Any:
    from distributed import LocalCluster

    threads = means.threads or max(1, processors() // workers)
    options = {"n_workers": workers, "threads_per_worker": threads, "dashboard_address": ":0"}
    if threading.current_thread() is not threading.main_thread():
        return LocalCluster(**options)
    # Ctrl-C is for this process: its children inherit that they are deaf to it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return LocalCluster(**options)
    finally:
        signal.signal(signal.SIGINT, before)
