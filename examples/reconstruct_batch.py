"""Reconstruct a night of scans, of which some are broken, and show what the batch says of them.

Twelve CT scans in Data Exchange files: one is truncated, one has no projections, and in one the
stage slipped, so that its angles are wrong. The batch is stopped in the middle and goes on. Run it:
``python examples/reconstruct_batch.py out/``, and open ``out/night/index.html``.
"""

import sys
from pathlib import Path

import h5py
import matplotlib.figure
import matplotlib.image

from labrecon.batch.means import Means
from labrecon.batch.run import reconstruct_batch
from labrecon.batch.view import status
from labrecon.plan import find_instrument
from labrecon.plugins import host
from labrecon.simulate import simulate_file

RECIPE = {
    "prepare": [{"step": "flat_field"}],
    "solver": {"name": "fista", "iterations": 100},
    "prior": {"name": "tv", "relative_weight": 0.0002},
}


def write_night(folder: Path) -> None:
    """Twelve scans as an instrument would write them, three of them not as they should be."""
    folder.mkdir(parents=True)
    instrument = find_instrument("ct", host())
    for i in range(12):
        simulate_file(instrument, folder / f"scan_{i:02}.h5", host=host(), seed=i)
    whole = (folder / "scan_03.h5").read_bytes()
    (folder / "scan_03.h5").write_bytes(whole[: len(whole) // 2])
    with h5py.File(folder / "scan_09.h5", "a") as file:
        del file["exchange/data"]
    with h5py.File(folder / "scan_07.h5", "a") as file:
        file["exchange/theta"][90:] += 4.0


class StopAfter:
    """Presses Ctrl-C, so to say, after some scans."""

    def __init__(self, count: int) -> None:
        self.left = count

    def scan(self, row: dict) -> None:
        """Count."""
        print(f"{row['name']}: {row['state']}", row["reason"].partition("\n")[0])
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def look(self, counts: dict, running: list) -> None:
        """Nothing to see."""

    def say(self, text: str) -> None:
        """A message of the batch."""
        print(text)


def main(out: Path) -> None:
    """Write, reconstruct with an interruption, go on, show."""
    out.mkdir(parents=True, exist_ok=True)
    write_night(out / "scans")
    pattern, night = str(out / "scans" / "*.h5"), out / "night"
    means = Means(workers=2, threads=1)
    first = reconstruct_batch(
        "ct", [pattern], night, recipe=RECIPE, means=means, spectators=[StopAfter(4)]
    )
    assert first.interrupted
    last = reconstruct_batch(
        "ct", [pattern], night, recipe=RECIPE, means=means, spectators=[StopAfter(99)]
    )
    assert last.counts["done"] == 10
    assert last.counts["failed"] == 2
    scans = status(night)["scans"]
    for scan in scans:
        print(scan["name"], scan["state"], "; ".join(scan["flags"]))

    figure = matplotlib.figure.Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.3, 1])
    for axes, scan in zip(left.subplots(3, 4).flat, scans, strict=True):
        axes.set(xticks=[], yticks=[], title=scan["name"])
        if scan["thumbnail"]:
            axes.imshow(matplotlib.image.imread(night / scan["thumbnail"]), cmap="gray")
        else:
            axes.text(0.5, 0.5, scan["kind"], ha="center", va="center", color="crimson")
        if scan["flags"]:
            axes.set_xlabel("flagged", color="darkorange")
    done = [scan for scan in scans if scan["state"] == "done"]
    axes = right.subplots()
    names = [scan["name"] for scan in done]
    colours = ["darkorange" if scan["flags"] else "steelblue" for scan in done]
    axes.barh(names, [scan["numbers"]["χ²"] for scan in done], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("χ² per sample")
    figure.savefig(out / "batch.png", dpi=90)
    print(f"open {night / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "batch_out"))
