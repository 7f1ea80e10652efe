"""Jobs of a SLURM cluster, as a TOML file describes them."""

from __future__ import annotations

import inspect
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field

from labrecon import tomlfile
from labrecon.errors import RecipeError
from labrecon.recipe import OpenTable, Written, nearest, validated

__all__ = ["Jobs", "read_jobs", "start_jobs"]


class Job(OpenTable):
    """``[job]``: what each job asks SLURM for; other keys are those of dask-jobqueue.

    Such as ``queue``, ``account``, ``interface``, ``job_extra_directives``,
    ``job_script_prologue`` and ``log_directory``.
    """

    cores: int = Field(ge=1, description="processors of a job: threads of its worker")
    memory: str = Field(description="of a job, such as '32GB'")
    walltime: str | None = Field(default=None, description="such as '08:00:00'")


class Jobs(Written):
    """What ``--slurm`` reads: how many jobs, and what each is.

    Example:
        ```toml
        jobs = 8
        [job]
        queue = "gpu"
        cores = 8
        memory = "32GB"
        walltime = "08:00:00"
        job_extra_directives = ["--gres=gpu:1"]
        ```
    """

    jobs: int = Field(ge=1, description="jobs to keep in the queue or running")
    job: Job


def read_jobs(path: Path) -> Jobs:
    """Read and check the file, before anything is submitted.

    Raises:
        RecipeError: it can not be read, or a key is unknown, missing or impossible; the message
            names the line.
    """
    from dask.utils import parse_bytes

    jobs = validated(Jobs, tomlfile.read(path))
    known = _options()
    for name in jobs.job.options:
        if name not in known:
            keys = [*Job.model_fields, *known]
            raise RecipeError(
                f"{jobs.where('job', name)}: [job] has no key {name!r}{nearest(name, keys)}; "
                "dask-jobqueue's SLURMCluster documents them"
            )
    try:
        parse_bytes(jobs.job.memory)
    except ValueError as error:
        raise RecipeError(
            f"{jobs.where('job', 'memory')}: job.memory is {jobs.job.memory!r}, expected a size "
            "such as '32GB'"
        ) from error
    return jobs


def _load() -> None:
    """Import dask-jobqueue, and leave the handlers of signals as they were: it sets its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    import_module("dask_jobqueue")
    for number, handler in kept.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _options() -> list[str]:
    """What dask-jobqueue takes for a job, beside what labrecon fills in."""
    _load()
    from dask_jobqueue.core import Job as AnyJob
    from dask_jobqueue.core import JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob

    own = {"self", "scheduler", "name", "cores", "memory", "walltime", "processes", "n_workers",
           "job_cls", "loop", "asynchronous"}  # fmt: skip
    names = [
        parameter.name
        for kind in (SLURMJob, AnyJob, JobQueueCluster)
        for parameter in inspect.signature(kind.__init__).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in own
    ]
    return list(dict.fromkeys(names))


def start_jobs(jobs: Jobs, out: Path) -> Any:
    """The cluster, with its jobs submitted.

    Each job is one Dask worker, as a scan is to have all of it. What jobs print goes to
    ``out/logs``, unless ``log_directory`` says otherwise.

    Raises:
        RecipeError: dask-jobqueue refuses a value.
    """
    _load()
    from dask_jobqueue import SLURMCluster

    given = {name: value for name, value in jobs.job.model_dump().items() if value is not None}
    options = {"python": sys.executable, "log_directory": str(out / "logs"), **given}
    try:
        cluster = SLURMCluster(processes=1, **options)
        cluster.job_script()
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{jobs.where('job')}: {error}") from error
    # Unlike scale(), this submits another job for one that came to its walltime.
    cluster.adapt(minimum_jobs=jobs.jobs, maximum_jobs=jobs.jobs)
    return cluster
