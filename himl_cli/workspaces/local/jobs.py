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

from himl_cli.core.errors import BadUsage, DiskFailed, Interrupted, JobFailed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.interruptions import interruptions
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.redaction import mask_arguments
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.job_environment import PLACEHOLDER
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder, new_run_id

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
    inputs = {item.key: str(_input_folder(item, default_datastore, notify)) for item in spec.inputs}
    outputs = {item.key: str(_output_folder(item, default_datastore)) for item in spec.outputs}
    _check_placeholders(spec, {"inputs": inputs, "outputs": outputs})
    return JobFolders(inputs, outputs)


def launch(workspace: Path, spec: JobSpec, folders: JobFolders) -> str:
    """Start the job in the workspace folder *workspace* and return its run id once it is recorded and its files are laid.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    run_id = new_run_id(spec.experiment)
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
            **_detached(),
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


def _detached() -> dict[str, Any]:
    """How to start a process that a closed terminal and Ctrl-C do not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _input_folder(item: DataSpec, default: Path, notify: Notify) -> Path:
    folder = _found_input(item, default, notify)
    if item.target is not None:
        notify(Notice(f"Input '{item.key}': 'target={item.target}' is for Azure ML; here the folder is '{folder}'."))
    return folder


def _found_input(item: DataSpec, default: Path, notify: Notify) -> Path:
    if item.local is not None:
        folder = Path(item.local).absolute()
        if not folder.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
        return folder
    folder = _datastore_folder(item, default)
    if not folder.exists():
        hint = f"Put the data there ('himl datastore upload FOLDER {item.name}'), or name a folder: --input {item.key}={item.name},local=FOLDER"
        raise NotFound(f"Input '{item.key}': no folder '{item.name}' in the local datastore '{folder.parent}'.", hint=hint)
    if item.version is not None:
        notify(Notice(f"Input '{item.key}': folders here have no versions; ':{item.version}' is passed over."))
    return folder


def _output_folder(item: DataSpec, default: Path) -> Path:
    folder = Path(item.local).absolute() if item.local is not None else _datastore_folder(item, default)
    if folder.is_file():
        raise BadUsage(f"Output '{item.key}': '{folder}' is a file.", hint="Name a folder.")
    if not item.overwrite and folder.exists():
        raise BadUsage(f"Output '{item.key}': '{folder}' exists, and overwrite=false was given.", hint="Choose another name, or leave overwrite=false out.")
    return folder


def _datastore_folder(item: DataSpec, default: Path) -> Path:
    """The folder NAME of the datastore named (where there is one here), else of the default one."""
    named = default.parent / item.datastore if item.datastore else default
    root = named if named.is_dir() else default
    folder = root / item.name
    if ".." in Path(item.name).parts or Path(item.name).is_absolute():
        raise BadUsage(f"'{item.name}' leaves the datastore.", hint="Name a folder inside it, or give a path with local=PATH.")
    return folder


def _check_placeholders(spec: JobSpec, folders: dict[str, dict[str, str]]) -> None:
    for argument in spec.arguments:
        for found in PLACEHOLDER.finditer(argument):
            known = folders[found[1]]
            if found[2] not in known:
                names = ", ".join(known) or "none"
                raise BadUsage(f"'{found[0]}' names no {found[1][:-1]}; there are: {names}.", hint=f"Add --{found[1][:-1]} {found[2]}=NAME")
