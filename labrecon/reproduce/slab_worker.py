"""A process for one volume in slabs: ``python -m labrecon.reproduce.slab_worker``.

One line of JSON on standard input says what to do. Lines back are ``{"stage": …}`` and in the end
``{"done": true}``, ``{"failed": …}`` or ``{"fatal": …}``. The process ends with its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from labrecon.batch.worker import failure
from labrecon.errors import LabreconError, OutputError, ReconstructionError, ScanError

__all__ = ["main"]


def main() -> None:
    """Reconstruct what standard input says."""
    # Ctrl-C is for the main process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    # Whatever else prints goes to the log.
    os.dup2(2, 1)

    def say(message: Mapping[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")

    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _reconstruct(told, say)
    except (ScanError, ReconstructionError, OutputError) as error:
        say({"failed": failure(error)})
    except LabreconError as error:
        say({"fatal": str(error), "exit_code": error.exit_code})
    except Exception as error:
        say({"failed": failure(error)})
    else:
        say({"done": True})


def _end_with_input() -> None:
    sys.stdin.read()
    # Whoever started this process is gone, and nobody wants the result.
    os._exit(1)


def _reconstruct(told: Mapping[str, Any], say: Any) -> None:
    import torch

    from labrecon.slabs import reconstruct_in_slabs

    class Stages:
        def stage(self, name: str) -> None:
            say({"stage": name})

        def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
            """Of no interest here."""

    setup = told["setup"]
    if setup["threads"] is not None:
        torch.set_num_threads(setup["threads"])
    reconstruct_in_slabs(
        setup["instrument"],
        told["scan"],
        told["out"],
        size=told["size"],
        halo=told["halo"],
        recipe=setup["recipe"],
        device=setup["device"],
        watcher=Stages(),
    )


if __name__ == "__main__":
    main()
