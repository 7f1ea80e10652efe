"""What was different when an output was made: versions, machine, code, preparation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences"]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two provenances and may change a result, a line each.

    What only one of them tells, as one of an older labrecon does, is passed over.
    """
    found = []
    for name, old, new in _unequal(then.get("versions", {}), now.get("versions", {})):
        if not isinstance(old, Mapping):
            found.append(f"{name} {old} then, {new} now")
    for kind in ("plugins", "packages"):
        pair = [told.get("versions", {}).get(kind, {}) for told in (then, now)]
        found += [f"{name} {old} then, {new} now" for name, old, new in _unequal(*pair)]
    for name, old, new in _unequal(then.get("machine", {}), now.get("machine", {})):
        found.append(f"{name.replace('_', ' ')} {old} then, {new} now")
    codes = [(told.get("call") or {}).get("code") or {} for told in (then, now)]
    if all(codes) and codes[0]["sha256"] != codes[1]["sha256"]:
        found.append(f"the instrument's code has changed: {codes[1]['path']}")
    steps = then.get("steps", []), now.get("steps", [])
    for i, (old, new) in enumerate(zip(*steps, strict=False)):
        if old != new:
            found.append(
                f"preparation step {i + 1} ({old.get('step')}) found {old} then, {new} now"
            )
    return list(dict.fromkeys(found))


def _unequal(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in then:
        if name in now and then[name] != now[name]:
            yield name, then[name], now[name]
