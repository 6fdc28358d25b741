"""Time processes and record the figures, set up a workspace in the double of Azure ML, and find the tools to compare
with. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import report
from benchmarks.raw import Raw
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import running_stage
from tests.azureml_double.state import Datastore
from tests.azureml_double.storage import Storage
from tests.support.clients import PythonMissing, client_python
from tests.support.machine import machine, source, versions

HIML = str(Path(sys.executable).with_name("himl"))
PROGRAMS = str(Path(__file__).with_name("programs.py"))
"""Python calls of the peers, as `PROGRAMS NAME ARGUMENTS...` with the Python of an environment that has the peer."""
STARTER = str(Path(__file__).with_name("run_and_wait.py"))
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
ACCOUNT, CONTAINER = "devstoreaccount1", "bench"
# The public key of the storage emulator.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSIONS_OF = (
    "from importlib.metadata import version; import sys; print('\\n'.join(version(name) for name in sys.argv[1:]))"
)


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that change the figures: settings of himl and its peers, and the one
    that disables compiled modules.
    """
    foreign = ("HIML_", "AZURE_", "RCLONE_", "AZCOPY_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and name != "PYTHONDONTWRITEBYTECODE"
    }


def spend(command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> dict[str, float]:
    """Run *command* and return its wall and processor time in seconds and its peak resident memory in bytes, including
    child processes.

    If the last line of its output is a JSON object with `wall` and `cpu`, these replace the times of the whole process.
    Raises SystemExit if the command fails."""
    done = subprocess.run(
        [sys.executable, "-S", STARTER, *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    first, _, said = done.stdout.decode(errors="replace").partition("\n")
    wall, cpu, memory, code = first.split()
    if int(code) != 0:
        sys.exit(f"{' '.join(command)}: exit code {code}\n{said[-4000:]}")
    last = said.strip().rpartition("\n")[2]
    own: dict[str, float] = json.loads(last) if last.startswith('{"wall"') else {}
    return {"wall": float(wall), "cpu": float(cpu), **own, "memory": int(memory) * RSS_UNIT}


Candidate = TypeVar("Candidate")


def turns(candidates: Iterable[Candidate], rounds: int) -> Iterator[tuple[int, Candidate]]:
    """Yield each candidate in each round, counted from 1. Every other round is in reverse order, so that a slow
    minute of the machine affects all.
    """
    order = list(candidates)
    for number in range(1, rounds + 1):
        for candidate in order[:: 1 if number % 2 else -1]:
            yield number, candidate


def take_turns(record: Raw, scenario: str, candidates: Mapping[str, Sequence[str]], rounds: int, folder: Path) -> None:
    """Run every candidate once unmeasured, then *rounds* times in turns, and record the wall times."""
    environment = clean_environment()
    for command in candidates.values():
        spend(command, environment, folder)
    for number, name in turns(candidates, rounds):
        record.add(scenario, name, number, wall=spend(candidates[name], environment, folder)["wall"])


def start_of_python() -> float:
    """Return the median wall time in seconds of five starts of Python that import Typer. It varies with the speed of
    the machine, which other users of its host can slow down.
    """
    command = [sys.executable, "-c", "import typer"]
    return round(statistics.median(spend(command, clean_environment())["wall"] for _ in range(5)), 4)


def new_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--raw", type=Path, metavar="FILE", help="write every figure to FILE, as JSON lines")
    return parser


@contextmanager
def recording(bench: str, path: Path | None) -> Iterator[Raw]:
    """Collect figures. When the context ends without an error, print them and write them to *path*, unless it is
    None.
    """
    path, typed = path.absolute() if path else None, sys.argv[1:]
    # A path on this machine is of no use to other readers of the page.
    if "--raw" in typed:
        del typed[typed.index("--raw") : typed.index("--raw") + 2]
    command = shlex.join(["python", "-m", f"benchmarks.{bench}", *typed])
    starts = [start_of_python()]
    begun, started = time.monotonic(), datetime.now(timezone.utc)
    about: dict[str, Any] = {
        "machine": machine(Path(tempfile.gettempdir())),
        "versions": versions(),
        "peers": {},
        "missing": {},
    }
    raw = Raw(
        bench,
        {
            "bench": bench,
            "started": f"{started:%Y-%m-%dT%H:%M:%SZ}",
            "seconds": 0.0,
            "starts": starts,
            "command": command,
            **source(),
            **about,
        },
    )
    yield raw
    raw.meta["seconds"] = round(time.monotonic() - begun, 1)
    starts.append(start_of_python())
    for scenario in dict.fromkeys(one["scenario"] for one in raw.rounds):
        print(report.scenario(raw, scenario), end="\n\n", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in raw.lines()), encoding="utf-8")


def peer_python(record: Raw, environment: str, candidate: str, *packages: str) -> str:
    """Return the Python of *environment* (of `tests.support.clients`), which is made if it does not exist, and record
    the versions of *packages* in it.

    If that fails, record that *candidate* is omitted and return an empty text.
    """
    try:
        python = str(client_python(environment))
        said = subprocess.run(
            [python, "-c", VERSIONS_OF, *packages], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    except (PythonMissing, subprocess.SubprocessError, OSError) as e:
        is_missing = isinstance(e, PythonMissing)
        record.leave_out(
            candidate, f"it needs {e}" if is_missing else f"its environment could not be made ({type(e).__name__})"
        )
        return ""
    record.name_peers(**dict(zip(packages, said.split(), strict=True)))
    return python


@dataclass(frozen=True)
class HimlWorkspace:
    """A workspace in the double. `home` has the cache of the command."""

    staged: StagedWorkspace
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Return a clean environment with the variables that make `himl` and the vendor's clients use the workspace."""
        state = self.staged.state
        place = {
            "HIML_SUBSCRIPTION_ID": state.subscription,
            "HIML_RESOURCE_GROUP": state.group,
            "HIML_WORKSPACE_NAME": state.name,
        }
        return {**clean_environment(), **self.staged.environment(), **place, "XDG_CACHE_HOME": str(self.home), **more}

    def spend(self, command: list[str], environment: dict[str, str], folder: Path | None = None) -> dict[str, float]:
        """Return the figures of a call by name, including its number of requests, which `staged.stage.log` has."""
        log = self.staged.stage.log
        log.clear()
        return {**spend(command, environment, folder), "requests": len(log.all())}

    def datastore(self, port: int) -> str:
        name = f"port_{port}"
        storage = Storage(ACCOUNT, KEY, f"http://127.0.0.1:{port}", suffix=f"blob.localhost:{port}", protocol="http")
        self.staged.state.datastores.setdefault(name, Datastore(name, CONTAINER, storage))
        return name


@contextmanager
def himl_workspace(folder: Path) -> Iterator[HimlWorkspace]:
    (folder / "double").mkdir(parents=True)
    with running_stage(folder / "double") as stage:
        yield HimlWorkspace(stage.workspace("benchmark"), folder / "cache")
