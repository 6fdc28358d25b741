"""`himl submit --record_in azure`, and the process that mirrors a run of this machine to an Azure ML workspace.

The process has a session of its own: it outlives the command and the terminal. Should it be killed itself, the next
himl command in the workspace starts it anew.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState

log = logging.getLogger(__name__)


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from contextlib import suppress

    from himl_cli.core.errors import HimlError
    from himl_cli.render.error_output import RedactingFormatter
    from himl_cli.services.runs.mirror import note_stopped
    from himl_cli.services.runs.mirror_state import DamagedState, MirrorFile
    from himl_cli.workspaces.resolve import open_workspace

    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    # What is away is said once, and not at each attempt
    logging.getLogger("himl_cli.workspaces.azure.requests").setLevel(logging.ERROR)
    folder, run_id = Path(sys.argv[1]), sys.argv[2]
    file = MirrorFile(folder, run_id)
    try:
        state = file.take()
        if state is not None:
            _mirror(folder, file, state)
    except DamagedState as err:
        log.warning("%s The recording ends.", err)
        why = f"{err} It is kept as '{file.set_aside().name}'."
        with suppress(HimlError):  # then the run does not say so
            note_stopped(open_workspace(str(folder), None, start=folder), run_id, why)
    except Exception:
        log.exception("the recording broke off")


def _mirror(folder: Path, file: MirrorFile, state: MirrorState) -> None:
    """Raises DamagedState."""
    from contextlib import closing

    from himl_cli.core.errors import HimlError
    from himl_cli.services.runs.mirror import Mirror
    from himl_cli.services.runs.mirror_state import DamagedState
    from himl_cli.workspaces.resolve import open_recording

    try:
        source, target = open_recording(folder, state.place)
    except KeyError as err:
        raise DamagedState(f"'{file.path}' is damaged: {err} is missing.") from err
    except HimlError as err:
        _put_off(folder, file, state, str(err))
        return
    try:
        with closing(target):
            Mirror(source, target, file, state).run()
    except Exception as err:
        log.exception("the recording broke off")
        why = str(err) if isinstance(err, HimlError) else f"himl itself failed: {type(err).__name__}: {err}"
        _put_off(folder, file, state, why)


def _put_off(folder: Path, file: MirrorFile, state: MirrorState, why: str) -> None:
    """Leave it to a later himl command: a setting may be mended, or himl itself."""
    from himl_cli.core.errors import HimlError
    from himl_cli.services.runs.mirror import put_off
    from himl_cli.workspaces.resolve import open_workspace

    try:
        put_off(open_workspace(str(folder), None, start=folder), state, why)
        if file.path.exists():  # else it was done
            file.write(state)
    except HimlError as err:
        log.debug("the state is not renewed: %s", err)
    file.release()


if __name__ == "__main__":
    main()
