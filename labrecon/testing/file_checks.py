"""Checks of files: readers and exporters."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon.plugins import resolve
from labrecon.testing.bench import Bench, check, found_any, instrument_of, relative
from labrecon.testing.finding import Finding


@check("readers", instrument=True)
def readers(bench: Bench) -> Iterator[Finding]:
    """Readers refuse what is not theirs, and read back what they write."""
    instrument = instrument_of(bench)
    findings = (
        finding
        for name, value in instrument.readers.items()
        for finding in _reader(bench, name, _made(value))
    )
    yield from found_any(
        findings,
        Finding("skipped", "the instrument reads no files", advice="add a reader to use recon"),
    )
    if bench.scan is not None:
        yield _read_file(bench, bench.scan)


def _made(value: Any) -> Any:
    found = resolve(value)
    return found() if isinstance(found, type) else found


def _reader(bench: Bench, name: str, reader: Any) -> Iterator[Finding]:
    about = f"reader {name}"
    with tempfile.TemporaryDirectory(prefix="labrecon-") as folder:
        root = Path(folder)
        suffix = getattr(reader, "suffix", "") or ".bin"
        strange = {"an empty file": b"", "noise": bytes(range(256)) * 16, "text": b"hello\n" * 100}
        for i, (what, content) in enumerate(strange.items()):
            path = root / f"strange{i}{suffix}"
            path.write_bytes(content)
            yield from _refuses(reader, path, what, about)
        yield from _refuses(reader, root, "a folder", about, only_matches=True)
        write = getattr(reader, "write", None)
        if write is None:
            yield Finding(
                "passed",
                "refuses what is not its own; it can not write, so no round trip",
                about=about,
                advice="give it write(scan, path) and suffix, or check a file with --scan FILE",
            )
            return
        scan = bench.simulate(90)
        path = root / f"scan{suffix}"
        write(scan, path)
        if not reader.matches(path):
            yield Finding("failed", "does not recognise what it wrote", about=about,
                          advice="matches must look for what write writes")  # fmt: skip
            return
        yield _round_trip(scan, reader.read(path), about)
        content = path.read_bytes()
        cut = root / f"cut{suffix}"
        cut.write_bytes(content[: len(content) // 2])
        yield from _refuses(reader, cut, "a truncated file", about)


def _refuses(
    reader: Any, path: Path, what: str, about: str, *, only_matches: bool = False
) -> Iterator[Finding]:
    try:
        if not reader.matches(path):
            return
    except Exception as error:
        yield Finding("failed", f"matches raises {type(error).__name__} for {what}", about=about,
                      advice="return False for whatever can not be opened")  # fmt: skip
        return
    if only_matches:
        return
    try:
        reader.read(path)
    except ReaderError:
        return
    except Exception as error:
        yield Finding(
            "failed",
            f"read raises {type(error).__name__} for {what}",
            about=about,
            advice="raise ReaderError, with what was found and what was expected",
        )
        return
    yield Finding("failed", f"reads {what} without a word", about=about,
                  advice="check sizes and required keys, and raise ReaderError")  # fmt: skip


def _round_trip(scan: Scan, again: Scan, about: str) -> Finding:
    if again.data.shape != scan.data.shape or again.data.dtype != scan.data.dtype:
        return Finding(
            "failed",
            f"data {tuple(scan.data.shape)} {scan.data.dtype} come back as "
            f"{tuple(again.data.shape)} {again.data.dtype}",
            about=about,
            advice="read arrays with the axes and the dtype that the operator takes",
        )
    error = relative(again.data, scan.data)
    if error > 1e-6:
        advice = "look for a transposed or flipped axis, or a lossy format"
        return Finding("failed", "data come back changed", error, 1e-6, advice, about)
    changed = [
        key
        for key, value in dict(scan.geometry).items()
        if not _same(getattr(again.geometry, key, None), value)
    ]
    if changed:
        return Finding(
            "failed",
            f"the geometry comes back changed: {', '.join(changed)}",
            about=about,
            advice="look for units (mm and m, degrees and radians) and for defaults",
        )
    return Finding("passed", "reads back what it writes", error, 1e-6, about=about)


def _same(again: Any, value: Any) -> bool:
    """Equal, up to the rounding of a conversion: an angle of pi / 180 may be written as 1°."""
    if isinstance(again, tuple) and isinstance(value, tuple):
        return len(again) == len(value) and all(map(_same, again, value))
    if isinstance(again, float) and isinstance(value, float):
        return math.isclose(again, value, rel_tol=1e-12, abs_tol=1e-300)
    return bool(again == value)


def _read_file(bench: Bench, path: Path) -> Finding:
    """A measured file: read, finite, and of the shape that the operator predicts."""
    instrument, about = instrument_of(bench), f"file {path.name}"
    try:
        made = {name: _made(value) for name, value in instrument.readers.items()}
        name, reader = next((n, r) for n, r in made.items() if r.matches(path))
    except StopIteration:
        return Finding("failed", "no reader recognises it", about=about,
                       advice="does it exist, and is it whole? see matches")  # fmt: skip
    try:
        scan = reader.read(path)
    except ReaderError as error:
        return Finding("failed", str(error), about=about, advice="mend the file, or the reader")
    if not bool(torch.isfinite(scan.data).all()):
        return Finding("failed", "the data hold NaN or infinity", about=about,
                       advice="give such samples the weight 0, and a number")  # fmt: skip
    space = instrument.operator(scan.geometry).range
    told = f"read as {name}: {tuple(scan.data.shape)}"
    if scan.data.shape[-space.ndim :] != space.shape:
        return Finding(
            "warned",
            f"{told}; the operator predicts {space.shape}",
            about=about,
            advice="fine if a preparation step brings one to the other",
        )
    return Finding("passed", told, about=about)


@check("exporters", instrument=True)
def exporters(bench: Bench) -> Iterator[Finding]:
    """Exporters write the design that the operator holds, and read it back if they can."""
    instrument = instrument_of(bench)
    designs = {
        name: bench.operator.get_parameter(name).detach().cpu().clone()
        for name in bench.operator.designs
    }
    if not designs:
        yield Finding("skipped", "the operator has no designs")
        return
    if not instrument.exporters:
        yield Finding(
            "warned",
            f"{', '.join(designs)} can be learned, and nothing exports it",
            advice="add an exporter(geometry, designs, path)",
        )
        return
    for name, value in instrument.exporters.items():
        yield _export(bench, resolve(value), designs, f"exporter {name}")


def _export(bench: Bench, export: Any, designs: Mapping[str, Tensor], about: str) -> Finding:
    given = {name: value.clone() for name, value in designs.items()}
    with tempfile.TemporaryDirectory(prefix="labrecon-") as folder:
        path = Path(folder) / "design"
        export(bench.geometry, given, path)
        written = [f for f in Path(folder).rglob("*") if f.is_file() and f.stat().st_size > 0]
        if not written:
            return Finding("failed", "writes nothing", about=about, advice="write to `path`")
        if any(not torch.equal(given[k], v) for k, v in designs.items()):
            return Finding("failed", "changes the design that it is given", about=about,
                           advice="work on a copy")  # fmt: skip
        read = getattr(export, "read", None)
        if read is None:
            return Finding("passed", f"writes {written[0].stat().st_size} bytes", about=about)
        again = read(written[0])
    error = max(relative(again[k].to(v), v) if k in again else float("inf")
                for k, v in designs.items())  # fmt: skip
    if error > 1e-5:
        return Finding("failed", "reads back another design", error, 1e-5,
                       "look for units, rounding, and the order of entries", about)  # fmt: skip
    return Finding("passed", "reads back what it writes", error, 1e-5, about=about)
