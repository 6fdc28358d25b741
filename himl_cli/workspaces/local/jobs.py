"""Starting a job here: resolve its folders, hand it to a supervisor of its own, hear that it runs."""

from __future__ import annotations

import logging
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notify
from himl_cli.core.jobs import EntryKind, JobSpec, check_placeholders
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.runs import new_run_id
from himl_cli.workspaces.local.command_line import fill_command
from himl_cli.workspaces.local.job_data import input_folder, output_folder
from himl_cli.workspaces.local.job_environment import find_shell, needs_shell
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.starting import SUPERVISOR, begin

log = logging.getLogger(__name__)

PROGRAMS = {EntryKind.script: ["python"], EntryKind.module: ["python", "-m"], EntryKind.shell: ["bash"]}


@dataclass(frozen=True)
class JobFolders:
    """The folders that a job's inputs and outputs resolve to, by key."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def resolve_folders(spec: JobSpec, default_datastore: Path, run_id: str, notify: Notify) -> JobFolders:
    """Find the inputs and decide where outputs of the run *run_id* go; nothing is made.

    Raises NotFound for an input that is nowhere, BadUsage for an output that must not exist, an unknown placeholder or
    one that cannot be filled.
    """
    inputs = {item.key: str(input_folder(item, default_datastore, notify)) for item in spec.inputs}
    outputs = {item.key: str(output_folder(item, default_datastore, run_id)) for item in spec.outputs}
    check_placeholders(spec)
    if spec.entry.kind is EntryKind.command:
        fill_command(spec.entry.target, {"inputs": inputs, "outputs": outputs})
    return JobFolders(inputs, outputs)


def launch(workspace: Path, spec: JobSpec, folders: JobFolders, run_id: str) -> None:
    """Start the job in the workspace folder *workspace*; returns once it is recorded and its files are laid.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then), NotFound
    without bash for a line of it.
    """
    check_shell(spec)
    folder = RunFolder(workspace / "runs" / run_id)
    log.debug("run %s: inputs %s, outputs %s", run_id, folders.inputs, folders.outputs)
    with own_stdin(spec) as (stdin, handles):
        tagged_spec, shown = tagged(spec, run_id), shown_command(spec)
        order = Order(str(folder.path), str(workspace), tagged_spec, shown, folders.inputs, folders.outputs, stdin)
        begin(SUPERVISOR, order.to_json(), folder, handles)


def chosen_run_id(spec: JobSpec) -> str:
    """The id that the job asks for, else a new one."""
    return spec.run_id or new_run_id(spec.experiment)


def tagged(spec: JobSpec, run_id: str) -> JobSpec:
    """The job with the tag by which hi-ml finds its run."""
    return replace(spec, tags={**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"})


def shown_command(spec: JobSpec) -> str:
    """The command line of the job as people read it, secrets masked."""
    if spec.entry.kind is EntryKind.command:
        return " ".join([mask_line(spec.entry.target), *map(shlex.quote, mask_arguments(spec.arguments))])
    return shlex.join([*PROGRAMS[spec.entry.kind], spec.entry.target, *mask_arguments(spec.arguments)])


def check_shell(spec: JobSpec) -> None:
    """Raises NotFound where the job is a line that needs bash, and there is none."""
    if spec.entry.kind is EntryKind.command and find_shell() is None and needs_shell(spec.entry.target):
        raise NotFound(
            "The job is a command line for bash, which is not installed here.",
            hint="Install bash, or run it on a cluster: --cluster NAME",
        )


@contextmanager
def own_stdin(spec: JobSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What this process reads, for the job to read (`Order.stdin`), and the handles that its supervisor inherits.

    A pipe, file or socket is handed on itself, so that what the script leaves unread stays there for others, as in a
    shell's loop. Of a terminal only an in-place job gets the name, for a debugger. On Windows nothing is handed on.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or an object of the program that calls
        yield "", ()
        return
    if sys.platform == "win32" or stat.S_ISCHR(mode):
        yield os.ttyname(number) if spec.in_place and sys.platform != "win32" and os.isatty(number) else "", ()
        return
    handle = os.dup(number)
    try:
        yield str(handle), (handle,)
    finally:
        os.close(handle)
