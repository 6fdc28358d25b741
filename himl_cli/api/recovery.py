"""What a job that was pre-empted goes on from when it is started again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from himl_cli.services.checkpoints.names import FOLDER, Kind
from himl_cli.services.checkpoints.recovery import on_disk


def recovery_checkpoint(folder: str | os.PathLike[str] = FOLDER) -> Path | None:
    """The checkpoint to go on from, None where training begins anew. Call it before anything writes to *folder*, in each rank.

    It is, of all tries of the job so far, the one of the highest epoch in `outputs/checkpoints` and `outputs/retry_001/checkpoints`, …: files called
    `recovery_epoch=9.ckpt`, `recovery_9.ckpt` and the like (of one epoch that of the latest try, then Lightning's highest `-v1`), else `autosave.ckpt`;
    on the disk, else among the files that the run kept on Azure ML, which are brought once on each node and checked by MD5; else `last.ckpt`, which
    `himl submit --checkpoint` put there. Files that were not written to their end are passed over. Raises ServiceFailed and its kin where the run's files
    cannot be read: a training that began anew by mistake would write over what it had reached.
    """
    place = Path(folder).as_posix().rstrip("/")
    root = Path.cwd()
    found = on_disk(root, place, least=Kind.autosave)
    if found is None and not Path(folder).is_absolute():
        found = _kept(place)
    return found or on_disk(root, place)


def _kept(place: str) -> Path | None:
    """Of the files that the run of this job on Azure ML kept, brought to the temporary folder: beside the checkpoints they would be taken for new ones."""
    if not os.environ.get("AZUREML_RUN_ID"):
        return None
    from himl_cli.api.moving import bring
    from himl_cli.api.run import Run
    from himl_cli.api.run_context import current_run
    from himl_cli.services.checkpoints.recovery import bring_best
    from himl_cli.workspaces.open import own_azure, own_local_run

    if own_local_run() is not None or own_azure(Path.cwd()) is None:  # here, what the run keeps is what lies on the disk
        return None
    run = current_run()
    if not isinstance(run, Run):
        return None
    digest = hashlib.sha256(run.id.encode()).hexdigest()[:16]
    root = Path(tempfile.gettempdir()) / f"himl_recovery_{digest}"
    bring(root, repr(("recovery checkpoint", run.id, place)), lambda _: bring_best(run.files(), root, place))
    return on_disk(root, place)
