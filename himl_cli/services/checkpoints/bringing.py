"""Bringing a checkpoint to this machine, for a job that starts from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.checkpoints import FROM_RUN
from himl_cli.core.errors import IntegrityFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.redaction import shown
from himl_cli.services.checkpoints.cache import cache_folder
from himl_cli.services.checkpoints.chosen_files import ChosenFiles
from himl_cli.services.checkpoints.here import check_whole
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint
from himl_cli.services.checkpoints.whole import is_whole
from himl_cli.services.submission.prepare import shorten_tags
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore, Workspace

OpenAddress = Callable[[str], BlobStore]


@dataclass(frozen=True)
class Brought:
    """`files` are paths here by their place in a new job's working folder; `tags` say on the run what it began with."""

    files: Mapping[str, str]
    tags: Mapping[str, str]


def bring_checkpoint(
    source: str, workspace: Workspace, cwd: Path, notify: Notify, open_address: OpenAddress
) -> Brought:
    """The files that *source* means; those of a run or an address are downloaded to himl's cache, where they are not
    complete there.

    Raises NotFound naming what there is, and what the download raises.
    """
    found = find_checkpoint(source, workspace, cwd)
    say_why(found, notify)
    files = bring_found(found, workspace, notify, open_address)
    if found.run is not None or found.address:
        whose = f"of run {found.run.id}" if found.run is not None else f"at {shown(found.address)}"
        what = f"{', '.join(sorted(found.names)[:3])} {whose}" if found.names else whose
        notify(Notice(f"Checkpoint {what} goes to {', '.join(sorted(files)[:3])}."))
    return Brought(files, tags_of(found))


def bring_found(found: Checkpoint, workspace: Workspace, notify: Notify, open_address: OpenAddress) -> dict[str, str]:
    """Paths here of the files that were found, by their place in a new job's working folder.

    Raises BadUsage for a file here that no job could start from, IntegrityFailed for such a checkpoint of a run or at
    an address.
    """
    if found.run is not None:
        files = workspace.run_files(found.run.id)
        return _downloaded(found, ChosenFiles(files, found.blobs), f"{files.origin} {found.run.id}", notify)
    if found.address:
        file = open_address(found.address)
        (blob,) = (blob for page in file.list() for blob in page)
        return _downloaded(replace(found, names=[blob.name]), file, file.origin, notify)
    try:
        for name in found.names:
            check_whole(Path(name), in_folder=bool(found.folder))
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or found.inside}'") from err
    return dict(found.by_place)


def tags_of(found: Checkpoint) -> dict[str, str]:
    """The tag that says what a run began with: RUN:PATH, an address without its query, or `./` and the name of a file
    or folder that was here."""
    if found.run is not None:
        told = f"{found.run.id}:{found.folder or found.names[0]}"
    elif found.address:
        told = shown(found.address)
    else:
        told = f"./{Path(found.folder or found.names[0]).name}{'/' if found.folder else ''}"
    return shorten_tags({FROM_RUN: told})


def say_why(found: Checkpoint, notify: Notify) -> None:
    """Tell why it is this one, where that is not plain."""
    if found.why:
        notify(Notice(found.why))


def _downloaded(found: Checkpoint, files: BlobStore, key: str, notify: Notify) -> dict[str, str]:
    with cache_folder(key) as root:
        problem = download(files, DownloadRequest(root, overwrite=True), notify).problem()
        if problem is not None:
            raise problem
        if (found.is_one or not found.folder) and not is_whole(root / found.inside):
            raise IntegrityFailed(
                f"'{found.inside}' was not written to its end, and is no checkpoint.",
                hint="Choose another one, or train on without it.",
            )
        return {place: str(root / name) for place, name in found.by_place.items()}
