"""The other end of a submission: a job whose files come over the channel."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, IntegrityFailed
from himl_cli.core.events import Event, Notice
from himl_cli.core.files import make_folder, temporary_folder
from himl_cli.core.jobs import JobSpec, PipelineSpec
from himl_cli.workspaces.local.code_store import CodeStore
from himl_cli.workspaces.local.file_blobs import safe_parts
from himl_cli.workspaces.local.run_folder import explain_disk_error
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.remote.channel import (
    Channel,
    FrameKind,
    Piece,
    SentFile,
    jobs_of,
    packed,
    pieces_from,
    roots_of,
)


def send_notice(channel: Channel, event: Event) -> None:
    """Send the *event* if it is a notice."""
    if isinstance(event, Notice):
        channel.send(FrameKind.notice, packed(event.text))


def submit_sent(
    channel: Channel, workspace: LocalWorkspace, spec: JobSpec | PipelineSpec, files: Sequence[SentFile]
) -> None:
    """Request the *files* of the job or of the steps that no earlier job left here, start it, and send its run as the
    result. What has arrived before an error stays for the next call.

    Raises the errors of `JobTaker`, IntegrityFailed for a file with other bytes, and BadUsage for a Python that is not
    here.
    """
    notify = partial(send_notice, channel)
    pythons = [_python_of(job) for job in jobs_of(spec)]
    workspace.prepare(notify)
    store = CodeStore(workspace.folder)
    try:
        with temporary_folder(workspace.folder, "sent-") as folder:
            codes = [Path(folder, "code", str(number)) for number in range(len(roots_of(spec)))]
            for code in codes:
                code.mkdir(parents=True)
            places = {
                file: _place(Path(folder, "brought" if file.is_brought else "code", str(file.root)), file.name)
                for file in files
            }
            lacking = [number for number, file in enumerate(files) if not _is_here(store, file, places[file])]
            channel.send(FrameKind.page, packed(lacking))
            arrived = dict[Path, int]()
            try:
                pieces = pieces_from(channel)
                for number in lacking:
                    _receive(pieces, files[number], places[files[number]])
                    arrived[places[files[number]]] = files[number].mode
            finally:
                store.add(arrived)
            for file, path in places.items():
                path.chmod(file.mode)

            def staged(job: JobSpec, python: str) -> JobSpec:
                root = roots_of(spec).index(str(job.snapshot.root))
                paths = {file.name: str(path) for file, path in places.items() if file.is_brought and file.root == root}
                brought = {name: paths[name] for name in job.brought}
                snapshot = replace(job.snapshot, root=codes[root])
                return replace(job, snapshot=snapshot, brought=brought, python=python)

            if isinstance(spec, JobSpec):
                run = workspace.submit(staged(spec, pythons[0]), notify=notify)
            else:
                pairs = zip(spec.steps, pythons, strict=True)
                steps = [replace(step, job=staged(step.job, python)) for step, python in pairs]
                run = workspace.submit_pipeline(replace(spec, steps=steps), notify=notify)
            channel.send(FrameKind.result, packed(run))  # the client need not wait until the folder is removed
    except OSError as err:
        raise explain_disk_error(err, "Cannot store the files of the job", workspace.folder) from err


def _python_of(spec: JobSpec) -> str:
    """The Python of the job: that which the settings name, else this one. Raises BadUsage if it is not here."""
    if spec.engine is not None and spec.engine.python:
        return spec.engine.python
    if not spec.python:
        return sys.executable
    if spec.words_before or (spec.setup and os.path.basename(spec.python) == spec.python):
        return spec.python  # in the container, or where the lines put it
    if (python := shutil.which(spec.python)) is None:
        hint = "Name another one: python in the table [remote.HOST] of the settings."
        raise BadUsage(f"There is no Python '{spec.python}' there.", hint=hint)
    return os.path.abspath(python)


def _place(folder: Path, name: str) -> Path:
    parts = safe_parts(name)
    if parts is None:
        raise BadUsage(f"The job has a file with the invalid name '{name}'.")
    make_folder(folder.joinpath(*parts).parent)
    return folder.joinpath(*parts)


def _is_here(store: CodeStore, file: SentFile, path: Path) -> bool:
    with suppress(FileExistsError):
        if store.copy_of(file.digest, file.mode, path):
            path.chmod(0o600)  # a file of the store is read-only
            return True
        path.unlink(missing_ok=True)
    return False


def _receive(pieces: Iterator[tuple[Piece, memoryview]], file: SentFile, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as target:
        for piece, data in pieces:
            digest.update(data)
            target.write(data)
            if piece.is_end:
                break
    if digest.hexdigest() != file.digest:
        path.unlink()
        raise IntegrityFailed(f"'{file.name}' changed while himl sent it.", hint="Run the command again.")
