"""Batches on Dask clusters: real ones on this machine, and what SLURM would be told."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from batch_cases import states, wait_for
from fragile_toy import NAME, write_scan
from typer.testing import CliRunner

from labrecon.batch.bench import SetupError
from labrecon.batch.cluster import crew_maker
from labrecon.batch.dask_crew import DaskCrew
from labrecon.batch.desk import probe
from labrecon.batch.means import Means
from labrecon.batch.run import reconstruct_batch
from labrecon.batch.session import BatchResult, local_crew
from labrecon.batch.slurm import read_jobs
from labrecon.batch.tasks import Limits, Setup, Task
from labrecon.batch.view import status
from labrecon.cli import app
from labrecon.errors import RecipeError

distributed = pytest.importorskip("distributed")
if find_spec("dask_jobqueue") is None:
    pytest.skip("dask_jobqueue is not installed", allow_module_level=True)
#: The event loop and the nannies of distributed close sockets late.
quiet = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")


@pytest.fixture
def cluster(worker_path):
    """Two Dask workers, each a process with one thread, and a nanny that starts another one."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as made:
        yield made


def pids(cluster) -> dict[str, int]:
    with distributed.Client(cluster, set_as_default=False) as client:
        return client.run(os.getpid)


def benches(pid: int) -> list[psutil.Process]:
    """labrecon's own processes in a Dask worker."""
    return [
        child
        for child in psutil.Process(pid).children()
        if "labrecon.batch.worker" in " ".join(child.cmdline())
    ]


def batch(cluster, folder: Path, out: Path, **means) -> BatchResult:
    return reconstruct_batch(
        NAME,
        [folder / "*.toy"],
        out,
        means=Means(**{"threads": 1, **means}),
        crew=crew_maker(cluster.scheduler_address, None),
    )


def rows(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in status(out)["scans"]}


@quiet
@pytest.mark.slow
def test_both_workers_have_their_share(cluster, scans, tmp_path):
    out = tmp_path / "out"
    result = batch(cluster, scans(good=8), out)
    assert result.counts["done"] == 8
    logs = sorted((out / "logs").glob("*/worker-1.log"))
    assert len(logs) == 2
    ports = {str(address).rpartition(":")[2] for address in pids(cluster)}
    assert {log.parent.name.rpartition("-")[2] for log in logs} == ports
    assert all((out / "scans" / f"good_{i}" / "volume.h5").exists() for i in range(8))
    assert not list(out.glob(".probe*"))
    # The Dask workers stay, labrecon's processes are gone.
    workers = pids(cluster).values()
    wait_for(lambda: not any(benches(pid) for pid in workers), 20)


@quiet
@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_nothing(cluster, scans, tmp_path):
    folder, out = scans(good=0), tmp_path / "out"
    for i in range(6):
        write_scan(folder / f"s{i}.toy", seed=i, fate="prepare slow 1.5")
    victim = next(iter(pids(cluster).values()))
    killed = []

    def kill():
        wait_for(lambda: list(states(out).values()).count("running") == 2)
        wait_for(lambda: "done" in states(out).values())
        wait_for(lambda: list(states(out).values()).count("running") == 2)
        killed.extend(benches(victim))
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = batch(cluster, folder, out)
    thread.join()
    assert result.counts["done"] == 6
    assert sorted(row["attempts"] for row in rows(out).values()) == [1, 1, 1, 1, 1, 2]
    messages = " ".join(status(out)["messages"])
    assert "the Dask worker tcp://" in messages
    assert "was lost" in messages
    # Its process did not outlive it, and did not write behind the next attempt's back.
    assert len(killed) == 1
    assert psutil.wait_procs(killed, timeout=10)[1] == []


@quiet
@pytest.mark.slow
def test_a_scan_that_crashes_does_not_take_its_dask_worker_along(cluster, scans, tmp_path):
    out = tmp_path / "out"
    before = pids(cluster)
    result = batch(cluster, scans(good=3, bad="prepare segfault"), out)
    told = rows(out)
    assert result.counts["done"] == 3
    assert (told["bad"]["state"], told["bad"]["kind"]) == ("failed", "crash")
    assert "SIGSEGV" in told["bad"]["reason"]
    assert "misbehave" in told["bad"]["trace"]
    assert pids(cluster) == before


@quiet
@pytest.mark.slow
def test_workers_that_appear_later_are_used(worker_path, scans, tmp_path):
    folder, out = scans(good=4), tmp_path / "out"
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=0, **options) as cluster:
        timer = threading.Timer(3.0, lambda: cluster.scale(1))
        timer.start()
        result = batch(cluster, folder, out)
        timer.join()
    assert result.counts["done"] == 4


@quiet
@pytest.mark.slow
def test_the_command_line_and_a_cluster_of_its_own(scans, tmp_path):
    folder, out = scans(good=3), tmp_path / "out"
    words = ["recon", NAME, str(folder / "*.toy"), "-o", str(out), "--dask", "local:2", "--json"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    assert set(states(out).values()) == {"done"}
    assert not benches(os.getpid())


@quiet
@pytest.mark.slow
def test_a_worker_that_can_not_do_it_is_named(cluster, scans, tmp_path):
    setup = Setup("no_such_module:Fragile", {}, threads=1)
    (tmp_path / "out").mkdir()
    with distributed.Client(cluster, set_as_default=False) as client:
        crew = DaskCrew(client, setup, Limits(), tmp_path / "out")
        task = Task(0, str(tmp_path / "a.toy"), str(tmp_path / "out" / "a"))
        crew.submit(task)
        # One bad node does not stop the others; where all are bad, nothing can be done.
        [event] = wait_for(lambda: crew.events(0.2))
        assert event.kind == "returned"
        crew.submit(task)
        with pytest.raises(SetupError, match=r"Dask worker tcp://.*no_such_module"):
            wait_for(lambda: crew.events(0.2))
        crew.close()


class FakeFuture:
    """A task that is never done."""

    was_cancelled = False

    def add_done_callback(self, function):
        pass

    def cancel(self):
        self.was_cancelled = True


class FakeClient:
    """Workers that say what a test wants, without any network."""

    def __init__(self, **told):
        self.told = told
        self.alive = {"tcp://a:1": 2}

    def nthreads(self):
        return dict(self.alive)

    def run(self, function, *args, workers=None, on_error="raise"):
        if function is not probe:
            return {}
        return {address: {**probe(*args), **self.told} for address in workers}

    def submit(self, function, order, task, **options):
        self.asked = (order, task, options)
        self.future = FakeFuture()
        return self.future

    def subscribe_topic(self, *args):
        pass

    unsubscribe_topic = subscribe_topic


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"labrecon": "9.9"}, r"tcp://a:1 on here has labrecon 9\.9, and this is .* same on all"),
        ({"sees": False}, "does not see .*: name an output on a disk that all machines share"),
        ({"writes": False}, "may not write to"),
    ],
)
def test_workers_that_do_not_fit_are_refused(tmp_path, told, why):
    setup = Setup(NAME, {})
    with pytest.raises(SetupError, match=why) as caught:
        DaskCrew(FakeClient(host="here", **told), setup, Limits(), tmp_path)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.glob(".probe*"))


def test_a_worker_of_another_version_that_joins_later_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.batch.dask_crew.LOOK", 0.0)
    client = FakeClient()
    crew = DaskCrew(client, Setup(NAME, {}), Limits(), tmp_path)
    assert crew.accepts(alone=True)
    client.told = {"labrecon": "9.9"}
    client.alive = {"tcp://a:1": 2, "tcp://b:1": 2}
    assert list(crew.events(0.0)) == []
    assert crew._free() == ["tcp://a:1"]
    assert "tcp://b:1" in (tmp_path / "logs" / "cluster.log").read_text()
    client.alive = {"tcp://b:1": 2}
    with pytest.raises(SetupError, match=r"tcp://b:1.*9\.9"):
        crew.events(0.0)


def test_a_scan_is_pinned_and_fails_with_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.batch.dask_crew.LOOK", 0.0)
    client = FakeClient()
    crew = DaskCrew(client, Setup(NAME, {}), Limits(seconds=9.0), tmp_path)
    crew.submit(Task(7, "/a.toy", "/out/a"))
    order, task, options = client.asked
    assert options["workers"] == ["tcp://a:1"]
    assert options["retries"] == 0
    assert options["allow_other_workers"] is options["pure"] is False
    # Without --threads a process has those of its Dask worker.
    assert order["setup"]["threads"] == 2
    assert order["limits"] == {"seconds": 9.0, "memory": None}
    assert json.loads(json.dumps([order, task])) == [order, task]
    assert not crew.accepts()
    assert list(crew.events(0.0)) == []
    client.alive = {"tcp://b:1": 1}
    [event] = crew.events(0.0)
    assert (event.kind, event.scan, event.told["kind"]) == ("failed", 7, "crash")
    assert event.told["reason"] == "the Dask worker tcp://a:1 was lost"
    assert client.future.was_cancelled
    assert crew.accepts()


def test_a_scheduler_out_of_reach_is_waited_for_and_then_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.batch.dask_crew.LOOK", 0.0)
    client = FakeClient()
    crew = DaskCrew(client, Setup(NAME, {}), Limits(), tmp_path)

    def gone():
        raise OSError("Connection refused")

    client.nthreads = gone
    assert list(crew.events(0.0)) == []
    assert crew.accepts()
    monkeypatch.setattr("labrecon.batch.dask_crew.PATIENCE", -1.0)
    with pytest.raises(SetupError, match="out of reach"):
        crew.events(0.0)


# -- what is asked for -------------------------------------------------------------------------


def test_without_a_cluster_it_is_this_machine():
    assert crew_maker(None, None) is local_crew


@pytest.mark.parametrize(
    ("dask", "told"),
    [
        ("local:0", "local:N with N Dask workers, 1 or more"),
        ("local:two", "local:N"),
        ("node1", r"expected the address of a scheduler such as tcp://node1:8786"),
    ],
)
def test_an_address_that_is_none(dask, told):
    with pytest.raises(RecipeError, match=told):
        crew_maker(dask, None)


def test_dask_and_slurm_are_not_both(tmp_path):
    with pytest.raises(RecipeError, match="not both"):
        crew_maker("local:1", tmp_path / "s.toml")


@quiet
def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.batch.cluster.CONNECTING", 0.5)
    make = crew_maker("tcp://127.0.0.1:9", None)
    with pytest.raises(RecipeError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        make(Setup(NAME, {}), Means(), tmp_path)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(RecipeError, match=r'pip install "labrecon\[cluster\]"'):
        crew_maker("local:1", None)


JOBS = """\
jobs = 3
[job]
queue = "gpu"
account = "imaging"
cores = 8
memory = "32GB"
walltime = "08:00:00"
job_extra_directives = ["--gres=gpu:1"]
"""


@contextmanager
def job_script(jobs, out: Path):
    """A cluster that submits nothing: there is no SLURM here."""
    from dask_jobqueue import SLURMCluster

    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SLURMCluster, "adapt", lambda self, **how: asked.append(how))
        from labrecon.batch.slurm import start_jobs

        with start_jobs(jobs, out) as cluster:
            yield cluster.job_script(), asked


@quiet
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_job_script_says_what_the_file_says(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    file = tmp_path / "s.toml"
    file.write_text(JOBS)
    with job_script(read_jobs(file), tmp_path / "out") as (script, asked):
        for line in ("-p gpu", "-A imaging", "--cpus-per-task=8", "--mem=30G", "-t 08:00:00",
                     "--gres=gpu:1", f"-o {tmp_path}/out/logs/"):  # fmt: skip
            assert f"#SBATCH {line}" in script, script
        assert "--nthreads 8" in script
        assert "--nworkers 1" in script or "--nworkers" not in script
    assert asked == [{"minimum_jobs": 3, "maximum_jobs": 3}]
    # dask_jobqueue has handlers of its own.
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('queue = "gpu"', 'queu = "gpu"', r"line 3: \[job\] has no key 'queu' \(did you mean 'que"),
        ("cores = 8", "cores = 0", r"line 5: job\.cores: .*greater than or equal to 1, got 0"),
        ("cores = 8\n", "", r"line 2: \[job\] needs a 'cores'"),
        ('"32GB"', '"lots"', r"line 6: job\.memory is 'lots', expected a size such as '32GB'"),
        ("jobs = 3", "jobs = 0", "line 1: jobs"),
        ("jobs = 3", "jobb = 3", "line 1: the recipe has no key 'jobb'"),
        ("jobs = 3", "jobs = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_submitted(tmp_path, old, new, told):
    file = tmp_path / "s.toml"
    file.write_text(JOBS.replace(old, new))
    with pytest.raises(RecipeError, match=told):
        crew_maker(None, file)
