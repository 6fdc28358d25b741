"""What a script has inside a job: the folders of its data, and the checkpoint that an earlier attempt left."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from himl_cli.core.errors import NotAllowed, NotFound
from himl_cli.services.checkpoints.names import FOLDER as SAVED_IN
from himl_cli.services.checkpoints.names import Kind, Rank, is_better, on_disk, rank_of

PREFIXES = {"input": "AZURE_ML_INPUT_", "output": "AZURE_ML_OUTPUT_"}
"""How the variables begin that tell the folders; Azure ML writes the key behind them as it is, or in upper case: its
sources disagree."""
OF_ORDER = ("himl_after_", "himl_done")
"""How keys begin that only keep the order of a pipeline's steps: nobody reads them."""
LEGACY_PREFIX = "AZUREML_DATAREFERENCE_"

LEGACY_LISTS = {
    "input": ("AZUREML_DATASET_ENVIRONMENT_VARS", ",", ":"),
    "output": ("AZUREML_DATASET_FILE_OUTPUTS", ";", "/"),
}
"""In jobs that the older SDK submitted variables are called as the data, and one more lists them: its name, what parts
its items, what ends a name."""


class NoSuchData(NotFound, KeyError):
    """The job has no input or output of that key."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class DataFolders(Mapping[str, Path]):
    """Folders by key, read from the environment when they are asked for. Raises NoSuchData (also a KeyError) for a key
    that is not there.

    A key in another case than it was submitted in may be found, where the service or (on Windows) the system tells
    names in upper case.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._prefix = PREFIXES[kind]

    def __getitem__(self, key: str) -> Path:
        folder = self._value(key)
        if not folder:
            raise NoSuchData(
                f"No {self._kind} '{key}'; there are: {', '.join(self) or 'none'}.",
                hint=f"Submit with --{self._kind} {key}=NAME",
            )
        return Path(folder)

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
        """What the first variable says that is set: the exact one, in upper case, those of the older SDK."""
        names = [
            f"{self._prefix}{key}",
            f"{self._prefix}{key.upper()}",
            f"{LEGACY_PREFIX}{key}",
        ]
        # a variable of the key's own name is the data's where it is listed, or has the name that himl gives
        if key in self._listed() or key.startswith(f"{self._kind.upper()}_"):
            names.append(key)
        return next(filter(None, map(os.environ.get, names)), None)

    def _listed(self) -> list[str]:
        name, parting, end = LEGACY_LISTS[self._kind]
        return [item.partition(end)[0] for item in os.environ.get(name, "").split(parting) if item.partition(end)[0]]


def inputs() -> DataFolders:
    """The folders of the job's inputs by key: `inputs()["mnist"]` for `--input mnist=NAME`; empty outside a job."""
    return DataFolders("input")


def outputs() -> DataFolders:
    """The folders of the job's outputs by key; empty outside a job."""
    return DataFolders("output")


def recovery_checkpoint(folder: str | os.PathLike[str] = SAVED_IN) -> Path | None:
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
    stored = None
    if not Path(folder).is_absolute():
        stored = _stored(place, rank_of(found.relative_to(root).as_posix(), place) if found is not None else None)
    return stored or found or on_disk(root, place)


def _stored(place: str, than: Rank | None) -> Path | None:
    """One better *than* that of the files that the run of this job on Azure ML kept.

    It is brought to the temporary folder: beside the checkpoints it would be taken for a new one.
    """
    if not os.environ.get("AZUREML_RUN_ID"):
        return None
    from himl_cli.api.transfer import once
    from himl_cli.api.workspace import Run, current_run
    from himl_cli.services.checkpoints.fetch import bring_best
    from himl_cli.workspaces.resolve import own_azure, own_local_run

    if (
        own_local_run() is not None or own_azure(Path.cwd()) is None
    ):  # here, what the run keeps is what lies on the disk
        return None
    run = current_run()
    if not isinstance(run, Run):
        return None
    root = _own_folder(f"himl_recovery_{hashlib.sha256(run.id.encode()).hexdigest()[:16]}")
    once(root, ("recovery checkpoint", run.id, place), lambda _: bring_best(run.files(), root, place, than=than))
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
