"""A lock for each external function, and none of a process that is not here."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["lock_of"]

_LOCKS: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
_MAKING = threading.Lock()


def _forget_locks() -> None:
    """In a forked child, where those who hold the locks are not."""
    global _MAKING
    _MAKING = threading.Lock()
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def lock_of(function: Callable[..., Any]) -> Any:
    """The lock of a function: operators that call the same code wait for each other."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    key = id(owner), id(getattr(function, "__func__", function))
    with _MAKING:
        lock = _LOCKS.get(key)
        if lock is None:
            lock = _LOCKS[key] = threading.RLock()
        return lock
