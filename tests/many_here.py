"""Sweeps and pipelines of the local workspace in tests: their processes, their children, a script whose trials can be held up."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.running import Himl
from tests.waiting import until

KEEPER = b"himl_cli.workspaces.local.controller"
SUPERVISOR = b"himl_cli.workspaces.local.supervisor"

# Notes each start in ../notes/starts, waits for ../notes/go-on where ../notes/hold is, and notes its end.
NOTING = """
import os, sys, time
from pathlib import Path
notes = Path(os.environ["NOTES"])
name = os.environ["AZUREML_RUN_ID"]
with (notes / "starts").open("a") as stream:
    stream.write(name + "\\n")
print("up", flush=True)
while (notes / "hold").exists():
    time.sleep(0.02)
Path("outputs/result.txt").write_text(" ".join(sys.argv[1:]))
with (notes / "ends").open("a") as stream:
    stream.write(name + "\\n")
"""


def notes_folder(tmp_path: Path, *, holds: bool = False) -> Path:
    """The folder that scripts note their starts and ends in; give it as NOTES."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("starts", "ends", *(["hold"] if holds else [])):
        (folder / name).touch()
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def children(himl: Himl, parent: str) -> list[dict[str, Any]]:
    """The children of a run as `runs show --children` tells them, in the order of their ids."""
    found = himl.ok("runs", "show", "--run", parent, "--children", "--json").json()
    return sorted(found if isinstance(found, list) else [found], key=lambda run: str(run["id"]))


def show(himl: Himl, run: str) -> dict[str, Any]:
    found: dict[str, Any] = himl.ok("runs", "show", run, "--json").json()
    return found


def statuses(himl: Himl, parent: str) -> list[str]:
    return [str(run["status"]) for run in children(himl, parent)]


def log_of(project: Path, run: str) -> str:
    return (project / ".himl" / "runs" / run / "user_logs" / "std_log.txt").read_text()


def pids(project: Path, module: bytes) -> list[int]:
    """Processes of *module* that work below the project's workspace (by /proc)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where, command = os.readlink(entry / "cwd"), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if where.startswith(str(project / ".himl")) and module in command:
                found.append(int(entry.name))
    return found


def kill(project: Path, module: bytes) -> None:
    """SIGKILL to all processes of *module*, and wait until they are gone."""
    for pid in pids(project, module):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not pids(project, module))
