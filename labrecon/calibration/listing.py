"""What can be calibrated, in words."""

from __future__ import annotations

from collections.abc import Sequence

from labrecon.instrument import Instrument

__all__ = ["calibratable"]


def calibratable(instrument: Instrument) -> dict[str, str]:
    """Nuisances by the name that recipes use: their numbers and unit.

    Of the kinds of acquisition in `Instrument.examples`; those that a nuisance is confined to are
    named.
    """
    kinds = instrument.examples()
    told: dict[str, str] = {}
    having: dict[str, list[str]] = {}
    for kind, geometry in kinds.items():
        operator = instrument.operator(geometry)
        for full, feasible in operator.nuisances.items():
            name = operator.short_name(full)
            unit = f"in {feasible.unit}" if feasible is not None and feasible.unit else ""
            told[name] = " ".join(filter(None, (_numbers(operator.labels_of(full)), unit)))
            having.setdefault(name, []).append(kind)
    for name, those in having.items():
        if len(those) < len(kinds):
            told[name] += f" ({', '.join(those)})"
    return told


def _numbers(labels: Sequence[str]) -> str:
    """What a vector's numbers are called, or how many there are; nothing for a number alone."""
    names = [label.partition(" ")[2] for label in labels if " " in label]
    if not names:
        return f"{len(labels)} numbers" if len(labels) > 1 else ""
    return ", ".join(names if len(names) < 5 else [names[0], names[1], "…", names[-1]])
