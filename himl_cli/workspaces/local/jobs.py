"""Starting a job here: resolve its folders, hand it to a supervisor of its own, hear that it runs."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import DiskFailed, Interrupted, JobFailed
from himl_cli.core.events import Notify
from himl_cli.core.interruptions import interruptions
from himl_cli.core.jobs import JobSpec
from himl_cli.core.placeholders import check_placeholders
from himl_cli.core.processes import detached
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.run_ids import new_run_id
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.job_data import input_folder, output_folder
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class JobFolders:
    """The folders that a job's inputs and outputs resolve to, by key."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def resolve_folders(spec: JobSpec, default_datastore: Path, notify: Notify) -> JobFolders:
    """Find the inputs and decide where outputs go; nothing is made.

    Raises NotFound for an input that is nowhere, BadUsage for an output that must not exist or an unknown placeholder.
    """
    inputs = {item.key: str(input_folder(item, default_datastore, notify)) for item in spec.inputs}
    outputs = {item.key: str(output_folder(item, default_datastore)) for item in spec.outputs}
    check_placeholders(spec)
    return JobFolders(inputs, outputs)


def launch(workspace: Path, spec: JobSpec, folders: JobFolders) -> str:
    """Start the job in the workspace folder *workspace* and return its run id once it is recorded and its files are laid.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    run_id = spec.run_id or new_run_id(spec.experiment)
    folder = RunFolder(workspace / "runs" / run_id)
    tagged = replace(spec, tags={**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"})
    order = Order(str(folder.path), str(workspace), tagged, shown_command(spec), folders.inputs, folders.outputs, _terminal(spec))
    try:
        folder.path.mkdir(parents=True)
    except OSError as err:
        raise explain_disk_error(err, "Cannot start the job", folder.path) from err
    try:
        folder.let_it_run()
        _start(order, folder)
    except OSError as err:
        folder.remove()
        raise explain_disk_error(err, "Cannot start the job", folder.path) from err
    return run_id


def shown_command(spec: JobSpec) -> str:
    """The command line of the job as people read it, secrets masked."""
    target = {"script": ["python"], "module": ["python", "-m"], "shell": ["bash"]}[spec.entry.kind.value]
    return shlex.join([*target, spec.entry.target, *mask_arguments(spec.arguments)])


def _start(order: Order, folder: RunFolder) -> None:
    log.debug("starting a supervisor for %s; inputs %s, outputs %s", folder.path, order.inputs, order.outputs)
    with (folder.path / "supervisor.log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "himl_cli.workspaces.local.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=folder.path,
            **detached(),
        )
    assert process.stdin is not None and process.stdout is not None
    with interruptions(lambda: _try_to_cancel(folder)) as interrupted:
        _hand_over(process, order)
        events = list(_events_until_started(process))
    process.stdout.close()
    process.returncode = 0  # it outlives this process, which Popen would warn of
    _check_started(events, folder)
    if interrupted:
        folder.ask_to_cancel()
        while folder.is_supervised():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        raise Interrupted(f"Run '{folder.run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {folder.run_id}")


def _try_to_cancel(folder: RunFolder) -> None:
    """From a signal's handler nothing may be raised; what fails here fails again, and is said, right after the start."""
    with suppress(DiskFailed):
        folder.ask_to_cancel()


def _terminal(spec: JobSpec) -> str:
    """The terminal that a debugger in an in-place job may read from, by name; '' where there is none (and on Windows)."""
    if not spec.in_place or sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        return ""
    return os.ttyname(sys.stdin.fileno())


def _hand_over(process: subprocess.Popen[bytes], order: Order) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(order.to_json().encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; that it says nothing is noticed next


def _events_until_started(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        log.debug("the supervisor says %s", line.decode().strip())
        event = json.loads(line)
        yield event
        if event["event"] in ("started", "refused"):
            return


def _check_started(events: list[dict[str, Any]], folder: RunFolder) -> None:
    last = events[-1] if events else {"event": "nothing"}
    if last["event"] in ("started", "recorded"):
        return  # after 'recorded' alone the supervisor died; the run's free lock tells every reader so
    if last["event"] == "refused":
        folder.remove()
        raise DiskFailed(last["message"], hint=last["hint"])
    why = (folder.path / "supervisor.log").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    folder.remove()
    raise JobFailed(f"The job's supervisor did not start: {why[0]}", hint="Is himl installed whole? Try: himl --version")
