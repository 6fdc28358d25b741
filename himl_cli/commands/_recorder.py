"""The process that tells a run which goes on here to an Azure ML workspace. Started by `himl submit --record_in azure`,
in a session of its own.

It outlives that command and the terminal. Should it be killed itself, the next himl command in the workspace starts it
anew.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from himl_cli.services.recording.note import Note, NoteFile
    from himl_cli.workspaces.base import Workspace


def start_recorder(folder: Path, run_id: str) -> None:
    """Start it for a run of the local workspace in *folder*. Raises DiskFailed where its log cannot be made."""
    from himl_cli.core.errors import DiskFailed
    from himl_cli.core.processes import detached
    from himl_cli.services.recording.note import NoteFile

    path = NoteFile(folder, run_id).log
    try:
        with path.open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "himl_cli.commands._recorder", str(folder.absolute()), run_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=folder,
                **detached(),
            )
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror}.") from err
    process.returncode = 0  # it outlives this process, which Popen would warn of


def resume_recordings(workspace: Workspace) -> None:
    """Go on with the recordings of the local part of *workspace* that nobody works on; a look at one folder, mostly an
    empty one."""
    from himl_cli.core.errors import DiskFailed
    from himl_cli.services.recording.note import unfinished
    from himl_cli.workspaces.resolve import local_folder

    folder = local_folder(workspace)
    if folder is None:
        return
    try:
        for run_id in unfinished(folder):
            start_recorder(folder, run_id)
    except DiskFailed as err:
        logging.getLogger(__name__).debug("recordings wait: %s", err)  # whoever may write here goes on with them


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _start_log()
    from himl_cli.services.recording.note import DamagedNote, NoteFile

    folder, run_id = Path(sys.argv[1]), sys.argv[2]
    file = NoteFile(folder, run_id)
    try:
        note = file.take()
        if note is not None:
            _record(folder, file, note)
    except DamagedNote as err:
        logging.getLogger(__name__).warning("%s The recording ends.", err)
        aside = file.set_aside()
        _say_not_told(folder, run_id, f"{err} It is kept as '{aside.name}'.")
    except Exception:
        logging.getLogger(__name__).exception("the recording broke off")


def _record(folder: Path, file: NoteFile, note: Note) -> None:
    """Raises DamagedNote."""
    from contextlib import closing

    from himl_cli.core.errors import HimlError
    from himl_cli.services.recording.note import DamagedNote
    from himl_cli.services.recording.recorder import Recorder
    from himl_cli.workspaces.resolve import open_recording

    try:
        here, there = open_recording(folder, note.place)
    except KeyError as err:
        raise DamagedNote(f"'{file.path}' is damaged: {err} is missing.") from err
    except HimlError as err:
        _put_off(folder, file, note, str(err))
        return
    try:
        with closing(there):
            Recorder(here, there, file, note).run()
    except Exception as err:
        logging.getLogger(__name__).exception("the recording broke off")
        _put_off(
            folder,
            file,
            note,
            str(err) if isinstance(err, HimlError) else f"himl itself failed: {type(err).__name__}: {err}",
        )


def _put_off(folder: Path, file: NoteFile, note: Note, why: str) -> None:
    """Leave it to a later himl command: a setting may be mended, or himl itself. The run here says why it is not
    told."""
    from himl_cli.core.errors import DiskFailed
    from himl_cli.core.redaction import redact
    from himl_cli.services.recording.recorder import put_off_text

    if not note.refused_since:
        logging.getLogger(__name__).warning(
            "Nothing can be told at present; it is kept, and tried again later: %s", why
        )
        _say_not_told(folder, note.run_id, put_off_text(why))
    goes_on, note.away = note.put_off(), redact(why)
    if not goes_on:
        file.remove()
        return
    try:
        if file.path.exists():  # else it was done
            file.write(note)
    except DiskFailed as err:
        logging.getLogger(__name__).debug("the note is not renewed: %s", err)
    file.release()


def _say_not_told(folder: Path, run_id: str, why: str) -> None:
    from himl_cli.core.errors import HimlError
    from himl_cli.services.recording.recorder import stop_with
    from himl_cli.workspaces.resolve import open_workspace

    try:
        stop_with(open_workspace(str(folder), None, start=folder), run_id, why)
    except HimlError as err:
        logging.getLogger(__name__).debug("the run does not say so: %s", err)


def _start_log() -> None:
    from himl_cli.commands.session import RedactingFilter, RedactingFormatter

    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("himl_cli.workspaces.azure.requests").setLevel(
        logging.ERROR
    )  # what is away is said once, and not at each try


if __name__ == "__main__":
    main()
