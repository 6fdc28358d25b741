"""Folders of data inside a job, and the checkpoint of an earlier attempt. A script in a job asks for both, and gets
them from variables of its environment and from its disk, so they stay together."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from himl_cli.api.open_workspace import job_folder
from himl_cli.core.errors import NotAllowed, NotFound
from himl_cli.services.checkpoints.names import CHECKPOINT_FOLDER as SAVED_IN
from himl_cli.services.checkpoints.names import CheckpointKind, CheckpointRank, is_better, on_disk, rank_of

PREFIXES = {"input": "AZURE_ML_INPUT_", "output": "AZURE_ML_OUTPUT_"}
"""Prefixes of the environment variables for folders. Azure ML appends the key, unchanged or in upper case (its sources
disagree)."""
OF_ORDER = ("himl_after_", "himl_done")
"""Prefixes of keys that only determine the order of a pipeline's steps, and have no data."""
LEGACY_PREFIX = "AZUREML_DATAREFERENCE_"

LEGACY_LISTS = {
    "input": ("AZUREML_DATASET_ENVIRONMENT_VARS", ",", ":"),
    "output": ("AZUREML_DATASET_FILE_OUTPUTS", ";", "/"),
}
"""In jobs of the older SDK, variables have the names of the data, and another one lists them: its name, the separator
of its items, the end of a name."""


class NoSuchData(NotFound, KeyError):
    """The job has no input or output with that key."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would add quotes


class DataFolders(Mapping[str, Path]):
    """Folders by key, read from the environment on each access. Raises NoSuchData (also a KeyError) for an unknown key.

    A key in another case than in the submission may match if the service or (on Windows) the system uses upper case.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._prefix = PREFIXES[kind]

    def __getitem__(self, key: str) -> Path:
        folder = self._value(key)
        if not folder:
            raise NoSuchData(
                f"No {self._kind} '{key}'. There are: {', '.join(self) or 'none'}.",
                hint=f"Submit with --{self._kind} {key}=NAME",
            )
        return job_folder() / folder

    def __iter__(self) -> Iterator[str]:
        keys = {name[len(self._prefix) :] for name in os.environ if name.startswith(self._prefix) and os.environ[name]}
        keys |= {key for key in self._listed() if self._value(key)}
        in_upper_case = {key.upper() for key in keys if key != key.upper()}
        return iter(sorted(key for key in keys - in_upper_case if not key.lower().startswith(OF_ORDER)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{self._kind}s({dict(self)})"

    def _value(self, key: str) -> str | None:
        """The first variable that is set: the exact key, the key in upper case, the older SDK's."""
        names = [
            f"{self._prefix}{key}",
            f"{self._prefix}{key.upper()}",
            f"{LEGACY_PREFIX}{key}",
        ]
        # A variable with the name of the key is for the data if it is listed, or has himl's default name.
        if key in self._listed() or key.startswith(f"{self._kind.upper()}_"):
            names.append(key)
        return next(filter(None, map(os.environ.get, names)), None)

    def _listed(self) -> list[str]:
        name, parting, end = LEGACY_LISTS[self._kind]
        return [item.partition(end)[0] for item in os.environ.get(name, "").split(parting) if item.partition(end)[0]]


def inputs() -> DataFolders:
    """The folders of the job's inputs by key: `inputs()["mnist"]` for `--input mnist=NAME`. Empty outside a job."""
    return DataFolders("input")


def outputs() -> DataFolders:
    """The folders of the job's outputs by key. Empty outside a job."""
    return DataFolders("output")


def recovery_checkpoint(folder: str | os.PathLike[str] = SAVED_IN) -> Path | None:
    """The checkpoint to resume from, or None to start from scratch. Call it in each rank, before anything writes to
    *folder*, which is relative to the folder in which the job started.

    It is the checkpoint with the highest epoch in `outputs/checkpoints`, `outputs/retry_001/checkpoints`, … of all
    attempts of the job: files such as `recovery_epoch=9.ckpt` or `recovery_9.ckpt`. For the same epoch, it is that of
    the latest attempt, then Lightning's highest `-v1`. Otherwise it is `autosave.ckpt`, or else `last.ckpt`, where
    `himl submit --checkpoint` copies to.

    himl searches the disk and, on Azure ML, the stored files of the run, as a new node has none of them. It fetches a
    better checkpoint once per node, and verifies its MD5. It skips incomplete files. Raises ServiceFailed or a related
    error if it cannot read the run's files, because a training that starts from scratch by mistake would overwrite its
    results. Raises NotAllowed if another user owns the temporary folder.
    """
    place = Path(folder).as_posix().rstrip("/")
    root = job_folder()
    found = on_disk(root, place, least=CheckpointKind.autosave)
    stored = None
    if not Path(folder).is_absolute():
        stored = _stored(place, rank_of(found.relative_to(root).as_posix(), place) if found is not None else None)
    return stored or found or on_disk(root, place)


def _stored(place: str, than: CheckpointRank | None) -> Path | None:
    """A checkpoint better *than* that from the stored files of this job's run on Azure ML.

    himl fetches it to the temporary folder. In the folder of checkpoints, it would count as a new one.
    """
    if not os.environ.get("AZUREML_RUN_ID"):
        return None
    from himl_cli.api.transfer import once
    from himl_cli.api.workspace import Run, current_run
    from himl_cli.services.checkpoints.fetch import bring_best
    from himl_cli.workspaces.resolve import own_azure, own_local_run

    # The files of a local run are those on the disk.
    if own_local_run() is not None or own_azure(Path.cwd()) is None:
        return None
    run = current_run()
    if not isinstance(run, Run):
        return None
    root = _own_folder(f"himl_recovery_{hashlib.sha256(run.id.encode()).hexdigest()[:16]}")
    once(root, ("recovery checkpoint", run.id, place), lambda _: bring_best(run.files(), root, place, than=than))
    found = on_disk(root, place)
    return found if found is not None and is_better(rank_of(found.relative_to(root).as_posix(), place), than) else None


def _own_folder(name: str) -> Path:
    """The folder *name* in the temporary folder, private to the user, as loading a checkpoint executes code. Raises
    NotAllowed."""
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32":
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NotAllowed(f"'{folder}' belongs to another user.", hint="Set TMPDIR to a folder of your own.")
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise NotAllowed(f"Other users can write to '{folder}'.", hint=f"Remove it: rm -r {folder}")
    return folder
