"""What a job that was pre-empted goes on from when it is started again."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from himl_cli.core.errors import NotAllowed
from himl_cli.services.checkpoints.names import FOLDER, Kind, Rank, rank_of
from himl_cli.services.checkpoints.recovery import is_better, on_disk


def recovery_checkpoint(folder: str | os.PathLike[str] = FOLDER) -> Path | None:
    """The checkpoint to go on from, None where training begins anew. Call it before anything writes to *folder*, in
    each rank.

    It is, of all tries of the job so far, the one of the highest epoch in `outputs/checkpoints` and
    `outputs/retry_001/checkpoints`, …: files called `recovery_epoch=9.ckpt`, `recovery_9.ckpt` and the like (of one
    epoch that of the latest try, then Lightning's highest `-v1`), else `autosave.ckpt`, else `last.ckpt`, which `himl
    submit --checkpoint` put there. It is looked for on the disk, and on Azure ML among the files that the run kept: a
    node that is new has none of them. A better one from there is brought once on each node and checked by MD5. Files
    that were not written to their end are passed over. Raises ServiceFailed and its kin where the run's files cannot be
    read: a training that began anew by mistake would write over what it had reached; NotAllowed where somebody else has
    the folder for it.
    """
    place = Path(folder).as_posix().rstrip("/")
    root = Path.cwd()
    found = on_disk(root, place, least=Kind.autosave)
    rank = (
        rank_of(found.relative_to(root).as_posix(), place)
        if found is not None and not Path(folder).is_absolute()
        else None
    )
    kept = _kept(place, rank) if not Path(folder).is_absolute() else None
    return kept or found or on_disk(root, place)


def _kept(place: str, than: Rank | None) -> Path | None:
    """One better *than* that of the files that the run of this job on Azure ML kept.

    It is brought to the temporary folder: beside the checkpoints it would be taken for a new one.
    """
    if not os.environ.get("AZUREML_RUN_ID"):
        return None
    from himl_cli.api.moving import bring
    from himl_cli.api.run import Run
    from himl_cli.api.run_context import current_run
    from himl_cli.services.checkpoints.recovery import bring_best
    from himl_cli.workspaces.resolve import own_azure, own_local_run

    if (
        own_local_run() is not None or own_azure(Path.cwd()) is None
    ):  # here, what the run keeps is what lies on the disk
        return None
    run = current_run()
    if not isinstance(run, Run):
        return None
    root = _own_folder(f"himl_recovery_{hashlib.sha256(run.id.encode()).hexdigest()[:16]}")
    bring(root, repr(("recovery checkpoint", run.id, place)), lambda _: bring_best(run.files(), root, place, than=than))
    found = on_disk(root, place)
    return found if found is not None and is_better(rank_of(found.relative_to(root).as_posix(), place), than) else None


def _own_folder(name: str) -> Path:
    """The folder *name* in the temporary one, this user's only: what lies there is loaded, and a checkpoint is a
    program. Raises NotAllowed."""
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32":
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NotAllowed(f"'{folder}' is somebody else's.", hint="Set TMPDIR to a folder of your own.")
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise NotAllowed(f"Others can write to '{folder}'.", hint=f"Remove it: rm -r {folder}")
    return folder
