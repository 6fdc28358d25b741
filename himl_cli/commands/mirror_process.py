"""The process that mirrors a local run to an Azure ML workspace, for `himl submit --record_in azure`.

It runs in a separate session, so it outlives the command and the terminal. If it is killed, the next himl command in
the workspace restarts it.
"""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.processes import detached
from himl_cli.services.runs.mirror_state import DamagedState, MirrorFile, MirrorState, unfinished
from himl_cli.workspaces.resolve import open_mirror, open_workspace

log = logging.getLogger(__name__)


def start_mirror(folder: Path, run_id: str) -> None:
    """Start the process for a run of the local workspace in *folder*. Raises DiskFailed if himl cannot create its
    log."""
    import subprocess

    path = MirrorFile(folder, run_id).log
    try:
        with path.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "himl_cli.commands.mirror_process", str(folder.absolute()), run_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                cwd=folder,
                **detached(),
            )
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror}.") from err
    process.returncode = 0  # prevents Popen's warning about a process that outlives this one


def resume_mirrors(folder: Path) -> None:
    """Restart the mirrors of the local workspace in *folder* that have no process."""
    try:
        for run_id in unfinished(folder):
            start_mirror(folder, run_id)
    except DiskFailed as err:
        log.debug("recordings wait: %s", err)  # a user who may write to the folder resumes them


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from himl_cli.render.progress import LogFormatter
    from himl_cli.services.runs.mirror import note_stopped

    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    # Report a service that does not respond once, and not at each retry.
    logging.getLogger("himl_cli.workspaces.retry").setLevel(logging.ERROR)
    folder, run_id = Path(sys.argv[1]), sys.argv[2]
    file = MirrorFile(folder, run_id)
    try:
        state = file.take()
        if state is not None:
            _mirror(folder, file, state)
    except DamagedState as err:
        log.warning("%s The recording ends.", err)
        why = f"{err} It is kept as '{file.set_aside().name}'."
        with suppress(HimlError):  # the run then lacks this note
            note_stopped(open_workspace(str(folder), None, start=folder), run_id, why)
    except Exception:
        log.exception("the recording broke off")


def _mirror(folder: Path, file: MirrorFile, state: MirrorState) -> None:
    """Mirror the run to its end. After an error, a later himl command retries, for example with corrected settings.
    Raises DamagedState."""
    from himl_cli.services.runs.mirror import Mirror, put_off

    try:
        source, target = open_mirror(folder, state.place)
    except KeyError as err:
        raise DamagedState(f"'{file.path}' is damaged: {err} is missing.") from err
    except HimlError as err:
        why = str(err)
    else:
        try:
            with closing(target):
                Mirror(source, target, file, state).run()
            return
        except Exception as err:
            log.exception("the recording broke off")
            why = str(err) if isinstance(err, HimlError) else f"himl itself failed: {type(err).__name__}: {err}"
    try:
        put_off(open_workspace(str(folder), None, start=folder), state, why)
        if file.path.exists():  # otherwise the mirror is complete
            file.write(state)
    except HimlError as err:
        log.debug("cannot update the state: %s", err)
    file.release()


if __name__ == "__main__":
    main()
