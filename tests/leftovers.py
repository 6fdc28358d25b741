"""Finding processes that tests left behind, by a mark in the environment they inherited."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "TESTED_WITH_MARK"


def processes_marked(mark: str, *, patience: float) -> list[str]:
    """Command lines of processes that carry *mark*, after waiting up to *patience* seconds for them to end; needs /proc."""
    deadline = time.monotonic() + patience
    while True:
        found = _marked_now(f"{MARK}={mark}".encode())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def stop(processes: list[str]) -> None:
    """End processes as `processes_marked` named them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), getattr(signal, "SIGKILL", signal.SIGTERM))


def _marked_now(entry: bytes) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is not ours
            continue
        if entry in environment.split(b"\0") and command:
            found.append(f"{folder.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
