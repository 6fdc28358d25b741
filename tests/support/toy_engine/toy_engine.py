"""An engine of another package, as docs/contributing/adding-an-engine.md describes it: processes of this machine that
wait while a file `hold` exists. The environment variable TOY_QUEUE names the folder with its records.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import EngineSpec, JobSpec
from himl_cli.core.runs import RunStatus
from himl_cli.core.workspaces import Check
from himl_cli.workspaces.local.engines.base import ENDED, QUEUED, RUNNING, UNKNOWN, EngineJob, JobState, OwnJob
from himl_cli.workspaces.local.launch_request import LaunchRequest
from himl_cli.workspaces.local.ranks import Ends, Rank

NAME, LABEL, DOCTOR = "toy", "ToyQueue", ""
OPTIONS: Mapping[str, str] | None = {"nice": "priority of the process"}
# Waits for the queue, then becomes the supervisor, which reads the document from the same stdin
WAITER = """
import os, sys, time
hold = sys.argv.pop(1)
while os.path.exists(hold):
    time.sleep(0.05)
os.execv(sys.executable, [sys.executable, "-m", "himl_cli.workspaces.local.supervisor"])
"""


def _queue() -> Path:
    return Path(os.environ["TOY_QUEUE"])


def unavailable() -> HimlError | None:
    return None if os.environ.get("TOY_QUEUE") else NotFound("There is no toy queue here.", hint="Set TOY_QUEUE.")


def largest_array() -> int:
    return 0


def site(handle: str = "", spec: JobSpec | None = None) -> str:
    return "toy"


def preview(job: EngineJob) -> str:
    return f"toy job {job.name} in {job.spec.engine.options['place'] if job.spec.engine else ''}\n{job.document}\n"


def submit(job: EngineJob, notify: Notify) -> str:
    assert job.spec.engine is not None
    if job.spec.engine.options["place"] == "closed":
        raise BadUsage("The toy queue 'closed' takes no jobs.", hint="Use another one.")
    handle = uuid.uuid4().hex[:8]
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(_queue() / "hold")],
            cwd=job.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    record = {"name": job.name, "pid": process.pid}
    (_queue() / handle).write_text(json.dumps(record))
    assert process.stdin is not None
    process.stdin.write(job.document.encode())
    process.stdin.close()
    process.returncode = 0  # it runs on
    notify(Notice(f"Toy job {handle}."))
    return handle


def states(jobs: Mapping[str, str]) -> Mapping[str, JobState]:
    if (_queue() / "away").exists():
        return dict.fromkeys(jobs, JobState(UNKNOWN, "the toy queue does not respond"))
    found = {path.name: json.loads(path.read_text()) for path in _queue().glob("[0-9a-f]*") if len(path.name) == 8}
    by_name = {record["name"]: handle for handle, record in found.items()}
    return {name: _state(handle or by_name.get(name, ""), found) for name, handle in jobs.items()}


def _state(handle: str, found: Mapping[str, Mapping[str, object]]) -> JobState:
    if handle not in found:
        return JobState(UNKNOWN, "the toy queue has no such job")
    pid = found[handle]["pid"]
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        is_gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        command, is_gone = b"", True
    if is_gone:
        status = RunStatus.canceled if (_queue() / f"{handle}.canceled").exists() else None
        return JobState(ENDED, "its process is gone", status, handle=handle)
    is_held = (
        bool(command) and b"supervisor\0" not in command
    )  # it is empty for a moment, while the process becomes the supervisor
    return JobState(QUEUED, "held", handle=handle) if is_held else JobState(RUNNING, handle=handle)


def cancel(jobs: Mapping[str, str], *, only_waiting: bool = False) -> None:
    known = states(jobs)
    for name, handle in jobs.items():
        kind = known[name].kind
        if kind == QUEUED or (kind == RUNNING and not only_waiting):
            (_queue() / f"{handle}.canceled").touch()
            os.killpg(json.loads((_queue() / handle).read_text())["pid"], signal.SIGKILL)


def shell(handle: str) -> str:
    return f"toy enter {handle}"


def places() -> Sequence[tuple[str, str, str]]:
    return ()


def checks(folder: Path, spec: EngineSpec | None) -> Iterator[Check]:
    yield Check.passed("toy", "The toy queue responds.")


def ranks_of_nodes(request: LaunchRequest, log: Path, ends: Ends) -> Rank:
    raise BadUsage("A toy job has one node.")


def own_job() -> OwnJob | None:
    return None
