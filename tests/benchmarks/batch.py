"""What a batch costs beyond its solves: ``python tests/benchmarks/batch.py [scans]``.

CT scans of 256² and 180 views in Data Exchange files, FISTA with TV for about 2 s each on one
thread. The bare loop has the same solves and nothing else: the data are in memory, nothing is
written. Both run in turns.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from labrecon import posing, reading, stages
from labrecon.batch.manifest import FILE, Manifest
from labrecon.batch.means import Means
from labrecon.batch.run import reconstruct_batch
from labrecon.job import assemble_job
from labrecon.plan import find_instrument
from labrecon.plugins import host
from labrecon.recon import load
from labrecon.simulate import simulate_file

SECONDS = 2.0
MIB = 2**20


def write_scans(folder: Path, count: int, size: int) -> list[Path]:
    """One simulated scan, and copies of it."""
    folder.mkdir(parents=True)
    instrument = find_instrument("ct", host())
    example = instrument.example()
    geometry = folder / "geometry.json"
    wide = example.model_copy(update={"columns": size, "volume_shape": (size, size)})
    geometry.write_text(wide.model_dump_json())
    first = folder / "s000.h5"
    simulate_file(instrument, first, host=host(), geometry=geometry)
    for i in range(1, count):
        shutil.copy(first, folder / f"s{i:03}.h5")
    return sorted(folder.glob("*.h5"))


def recipe(iterations: int) -> dict:
    return {
        "prepare": [{"step": "flat_field"}],
        "solver": {"name": "fista", "iterations": iterations, "check_every": 50},
        "prior": {"name": "tv", "relative_weight": 0.001},
    }


class Bare:
    """The solves alone, on one thread, with one operator."""

    def __init__(self, path: Path, values: dict) -> None:
        job = assemble_job("ct", recipe=values)
        scan, _ = load(job.another(str(path), Path("/nonexistent/out")), path)
        with torch.no_grad():
            prepared = reading.prepare(job.instrument, scan, job.plans[0])
            self.task = posing.pose(job.instrument, prepared, job.plans[0], job.device)

    def seconds(self, scans: int) -> float:
        """Per scan."""
        begin = time.perf_counter()
        with torch.no_grad():
            for _ in range(scans):
                stages.run(self.task)
        return (time.perf_counter() - begin) / scans


class Ends:
    """When scans ended: what starting a worker takes is not in the times between them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def scan(self, row: dict) -> None:
        self.times.append(time.perf_counter())

    def look(self, counts: dict, running: list) -> None: ...

    def say(self, text: str) -> None: ...

    def seconds(self, workers: int) -> float:
        """Per scan, from the first that each worker has finished on."""
        first, last = self.times[workers - 1], self.times[-1]
        return (last - first) / (len(self.times) - workers)


def batch(folder: Path, out: Path, values: dict, workers: int) -> float:
    ends = Ends()
    made = reconstruct_batch(
        "ct",
        [f"{folder}/*.h5"],
        out,
        recipe=values,
        means=Means(workers=workers, threads=1),
        spectators=[ends],
    )
    assert made.counts["done"] == len(ends.times)
    return ends.seconds(workers)


def memory(out: Path) -> list[int]:
    with Manifest(out / FILE, write=False) as manifest:
        rows = sorted(manifest.rows("done"), key=lambda row: row["finished"])
    return [row["told"]["worker_memory"] for row in rows]


def main(count: int) -> None:
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_scans(folder / "scans", count, 256)
        trial = Bare(paths[0], recipe(20))
        trial.seconds(1)
        iterations = max(20, round(20 * SECONDS / trial.seconds(2)))
        values = recipe(iterations)
        bare = Bare(paths[0], values)
        print(f"{iterations} iterations")
        for turn in range(3):
            alone = bare.seconds(max(3, count // 4))
            one = batch(folder / "scans", folder / f"one{turn}", values, 1)
            two = batch(folder / "scans", folder / f"two{turn}", values, 2)
            print(
                f"bare {alone:.3f} s, one worker {one:.3f} s ({100 * (one / alone - 1):+.1f} %), "
                f"two workers {two:.3f} s ({one / two:.2f} times one)"
            )
        few = write_scans(folder / "small", 200, 128)
        batch(folder / "small", folder / "many", recipe(5), 1)
        used = memory(folder / "many")
        print(
            f"peak memory of the worker after 20, 100 and {len(few)} scans: "
            f"{used[19] / MIB:.0f}, {used[99] / MIB:.0f}, {used[-1] / MIB:.0f} MiB "
            f"({used[-1] / used[19]:.3f})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
