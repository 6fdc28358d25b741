"""Bringing a checkpoint to this machine, for a job that starts from it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint
from himl_cli.services.transfer.disk import explained
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters, literal
from himl_cli.services.transfer.requests import DownloadRequest
from himl_cli.workspaces.base import Workspace

log = logging.getLogger(__name__)


def bring_checkpoint(source: str, workspace: Workspace, cwd: Path, notify: Notify) -> dict[str, str]:
    """The files that *source* means as paths here, by their place in a new job's working folder; those of a run are downloaded to himl's cache.

    What is complete there is not downloaded again. Raises NotFound naming what there is, and what the download raises.
    """
    found = find_checkpoint(source, workspace, cwd)
    brought = bring_found(found, workspace, notify)
    if found.run is not None:
        notify(Notice(f"Checkpoint {', '.join(sorted(found.names)[:3])} of run {found.run.id} goes to {', '.join(sorted(found.by_place)[:3])}."))
    return brought


def bring_found(found: Checkpoint, workspace: Workspace, notify: Notify) -> dict[str, str]:
    """The same for what was found."""
    root = Path() if found.run is None else _downloaded(found, workspace, notify)
    return {place: str(root / name) for place, name in found.by_place.items()}


def _downloaded(found: Checkpoint, workspace: Workspace, notify: Notify) -> Path:
    assert found.run is not None
    files = workspace.run_files(found.run.id)
    root = _cache_folder(f"{files.origin} {found.run.id}")
    prefix = found.folder or found.names[0]
    result = download(files, DownloadRequest(root, Filters(prefix, include=tuple(map(literal, found.names))), overwrite=True), notify)
    problem = result.problem()
    if problem is not None:
        raise problem
    return root


def _cache_folder(key: str) -> Path:
    import platformdirs

    try:
        root = platformdirs.user_cache_path("himl", appauthor=False) / "checkpoints" / hashlib.sha256(key.encode()).hexdigest()[:16]
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except RuntimeError:
        raise BadUsage("There is no folder to keep checkpoints in: this user has no home folder.", hint="Download it, and name the file.") from None
    except OSError as err:
        raise explained(err, "Cannot make himl's cache folder") from err
    return root
