"""The scans of an adaptation, and their objects where these are known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon import reading
from labrecon.batch.inventory import find, is_pattern, require_files
from labrecon.errors import LabreconError, ObjectsError, ScanError
from labrecon.instrument import Instrument, Scan
from labrecon.io.objects import object_files, read_objects
from labrecon.operator import Operator
from labrecon.plan import Plan
from labrecon.plugins import Host
from labrecon.problem import Problem

__all__ = ["find_scans", "posed_scan", "prepared_scan", "read_truths"]


def find_scans(scans: Sequence[str | Path], instrument: Instrument, host: Host) -> list[Path]:
    """The files of folders, files and patterns.

    Raises:
        ScanError: there are none.
    """
    readers = reading.readers_of(instrument, host)
    patterns = []
    for text in map(str, scans):
        path = Path(text)
        whole = not is_pattern(text) and path.is_dir()
        # A folder may be a scan itself, of a format that has one.
        inside = whole and not any(reader.matches(path) for reader in readers.values())
        patterns.append(f"{text}/*" if inside else text)
    require_files(patterns)
    found = find(patterns, readers)
    if not found:
        raise ScanError(f"there are no scans in {', '.join(map(str, scans))}")
    return found


def prepared_scan(instrument: Instrument, path: Path, plan: Plan, host: Host) -> Scan:
    """A scan as the network takes it; errors name the file."""
    try:
        return reading.prepare(instrument, reading.read(instrument, path, host), plan)
    except LabreconError as error:
        told = str(error)
        raise type(error)(told if str(path) in told else f"{path}: {told}") from error


def posed_scan(path: Path, scan: Scan, operator: Operator, device: torch.device) -> Problem:
    """Its problem, with the noise that it declares.

    Raises:
        ScanError: data that do not fit the operator, or are not finite.
    """
    weights = None if scan.weights is None else scan.weights.to(device)
    try:
        noise = copy.deepcopy(scan.noise).to(device)
        problem = Problem(operator, scan.data.to(device), noise, weights)
        problem.validate()
    except ValueError as error:
        raise ScanError(f"{path}: {error}") from error
    return problem


def read_truths(
    files: Sequence[Path], problems: Sequence[Problem], folder: Path
) -> tuple[list[Path], list[Tensor]]:
    """The objects of scans, by the same names: their files and what is in them.

    Raises:
        ScanError: a scan has no object.
        ObjectsError: an object can not be read, or does not fit its scan.
    """
    named = {path.name.partition(".")[0]: path for path in object_files(folder)[0]}
    used, found = [], []
    for path, problem in zip(files, problems, strict=True):
        stem = path.name.partition(".")[0]
        if stem not in named:
            raise ScanError(f"{path} has no object of the same name in {folder}")
        domain = problem.operator.domain
        held: Any = read_objects(named[stem], domain).objects
        if len(held) != torch.Size(problem.batch).numel():
            raise ObjectsError(
                f"{named[stem]} has {len(held)} objects, {path} {list(problem.batch)} slices"
            )
        used.append(named[stem])
        found.append(held.reshape(*problem.batch, *domain.shape).to(problem.data.device))
    return used, found
