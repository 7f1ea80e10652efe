"""A night: 200 scans of four instruments in their own formats, ten of them broken in six ways.

Every good scan is done, every broken one is reported with its reason, none is lost, although the
process is killed three times at random moments.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from batch_cases import states, wait_for

from labrecon.batch.view import status
from labrecon.plan import find_instrument
from labrecon.plugins import host
from labrecon.simulate import simulate_file

pytestmark = pytest.mark.slow

#: Scans that are really simulated; the others are copies under other names.
DIFFERENT = 5


def truncate(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(4096))


def without_angles(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["exchange/theta"]


def fewer_angles(path: Path) -> None:
    with h5py.File(path, "a") as file:
        angles = file["exchange/theta"][:-3]
        del file["exchange/theta"]
        file["exchange/theta"] = angles


def dark_flats(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["exchange/data_white"][...] = 0


def without_leds(path: Path) -> None:
    path.with_suffix(".json").unlink()


def fewer_pages(path: Path) -> None:
    tifffile.imwrite(path, tifffile.imread(path)[:1], photometric="minisblack")


def all_nan(path: Path) -> None:
    with fits.open(path, mode="update") as file:
        file[0].data = np.full_like(file[0].data, np.nan)


Damage = tuple[Callable[[Path], None], str]
#: Instrument, how many scans, suffix, recipe settings, and what is wrong with some.
NIGHTS: dict[str, tuple[int, str, list[str], list[Damage]]] = {
    "ct": (
        90,
        ".h5",
        ["solver.name=direct"],
        [
            (truncate, r"is truncated"),
            (empty, r"is none of the formats|is empty|0 bytes"),
            (without_angles, r"theta|angles"),
            (fewer_angles, r"177 .*180|180 .*177"),
            (dark_flats, r"flat"),
        ],
    ),
    "mri": (60, ".mrd.h5", ["solver.name=direct"], [(truncate, r"truncated|damaged|can not be")]),
    "phase": (
        40,
        ".tif",
        ["solver.iterations=3"],
        [(without_leds, r"json"), (fewer_pages, r"1 .*image|images|pages")],
    ),
    "wavefront": (
        10,
        ".fits",
        ["solver.iterations=3"],
        [(nonsense, r"is none of the formats|no FITS|FITS"), (all_nan, r"NaN|finite")],
    ),
}


def write(folder: Path, instrument: str, count: int, suffix: str) -> list[Path]:
    folder.mkdir(parents=True)
    known = find_instrument(instrument, host())
    for i in range(DIFFERENT):
        simulate_file(known, folder / f"s{i:03}{suffix}", host=host(), seed=i)
    for i in range(DIFFERENT, count):
        for file in folder.glob(f"s{i % DIFFERENT:03}.*"):
            shutil.copy(file, folder / file.name.replace(f"s{i % DIFFERENT:03}", f"s{i:03}"))
    return sorted(folder.glob(f"s*{suffix}"))


def start(instrument: str, folder: Path, suffix: str, settings: list[str], out: Path):
    words = ["recon", instrument, f"{folder}/*{suffix}", "-o", str(out), "--workers", "2"]
    words += [word for each in settings for word in ("--set", each)]
    return subprocess.Popen(
        [Path(sys.executable).with_name("labrecon"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("instrument", NIGHTS)
def test_every_good_scan_is_done_and_every_bad_one_told(instrument, tmp_path):
    count, suffix, settings, damages = NIGHTS[instrument]
    folder, out = tmp_path / "scans", tmp_path / "out"
    paths = write(folder, instrument, count, suffix)
    assert len(paths) == count
    chance = random.Random(instrument)
    broken = dict(zip(chance.sample(paths, len(damages)), damages, strict=True))
    for path, (damage, _) in broken.items():
        damage(path)
    for _ in range(3 if instrument == "ct" else 0):
        process = start(instrument, folder, suffix, settings, out)
        wait_for(lambda: "running" in states(out).values(), 120)
        time.sleep(chance.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(instrument, folder, suffix, settings, out).wait(timeout=500) == 7

    scans = {Path(scan["path"]): scan for scan in status(out)["scans"]}
    assert len(scans) == count
    for path in paths:
        scan = scans[path]
        if path in broken:
            assert scan["state"] == "failed", path
            assert re.search(broken[path][1], scan["reason"]), scan["reason"]
        else:
            assert scan["state"] == "done", (path, scan["reason"])
            assert (out / scan["output"] / "provenance.json").exists()
    made = [p for p in (out / "scans").iterdir() if not p.name.startswith(".")]
    assert len(made) == count - len(broken)
