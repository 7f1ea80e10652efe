"""What the manifest keeps of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labrecon.io.plain import plain

__all__ = ["numbers_of", "summary_of"]


def summary_of(result: Any, inputs: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The row's part that only the reconstruction knows; plain JSON values.

    Args:
        result: `labrecon.recon.Result`.
        inputs: hashes of the scan's files.
    """
    told = result.summary
    main = told["reconstructions"][0]
    found: dict[str, Any] = plain(
        {
            "title": main["title"],
            "status": told["status"],
            "iterations": told["iterations"],
            "numbers": numbers_of(told),
            "timings": told["timings_seconds"],
            "warnings": result.warnings,
            "volume": told["volume"].rpartition("/")[2],
            "inputs": list(inputs or ()),
            "summary": told,
        }
    )
    return found


def numbers_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of quality, metrics and findings, by the names that tables show.

    Args:
        summary: of a result, or its provenance.
    """
    main = summary["reconstructions"][0]
    quality = main["quality"]
    numbers = {"χ²": quality["chi2"], "residual σ": quality["residual_std"]}
    if quality.get("lag1_worst") is not None:
        numbers["lag-1 / bound"] = quality["lag1_worst"]
    halves = quality.get("split_half") or {}
    if halves:
        mm = halves.get("resolution_mm")
        key = "resolution (mm)" if mm is not None else "resolution (1/pixel)"
        numbers[key] = mm if mm is not None else halves.get("resolution_cycles_per_pixel")
    return {**numbers, **main["metrics"], **summary.get("findings", {})}
